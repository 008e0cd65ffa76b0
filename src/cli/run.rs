//! `ringway run`: serve in the foreground until told to leave.

use std::path::PathBuf;
use std::time::Duration;

use super::Ending;
use crate::office::{self, Setup};

pub(super) fn run(file: PathBuf) -> Result<(), Ending> {
    // Before anything opens a descriptor that could be taken for a handed one.
    let handed = office::take_handed().map_err(|error| Ending {
        status: 3,
        sentence: format!("LISTEN_FDS, LISTEN_FDNAMES: {error}"),
    })?;
    office::open_diary("info");
    let plan = crate::config::load(&file)?;
    let outcome = office::run(Setup {
        plan,
        file: Some(file),
        handed,
        on_ready: None,
        orders: None,
    });
    // A reader that has stalled does not keep us.
    office::flush_diary(Duration::from_secs(1));
    Ok(outcome?)
}
