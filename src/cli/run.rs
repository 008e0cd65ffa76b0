//! `ringway run`: serve in the foreground until told to leave.

use std::path::PathBuf;

use super::{Ending, start_log};
use crate::office::{self, Setup};

pub(super) fn run(file: PathBuf) -> Result<(), Ending> {
    // Before anything opens a descriptor that could be taken for a handed one.
    let handed = office::take_handed().map_err(|error| Ending {
        status: 3,
        sentence: format!("LISTEN_FDS, LISTEN_FDNAMES: {error}"),
    })?;
    start_log("info");
    let plan = crate::config::load(&file)?;
    office::run(Setup {
        plan,
        file: Some(file),
        handed,
        on_ready: None,
        orders: None,
    })?;
    Ok(())
}
