//! `ringway run`: serve in the foreground until told to leave.

use std::path::PathBuf;

use super::{Ending, start_log};
use crate::office::{self, Setup};

pub(super) fn run(file: PathBuf) -> Result<(), Ending> {
    start_log("info");
    let plan = crate::config::load(&file)?;
    office::run(Setup {
        plan,
        file: Some(file),
        on_ready: None,
        orders: None,
    })?;
    Ok(())
}
