//! `ringway run`: serve in the foreground until told to leave.

use std::path::PathBuf;
use std::time::Duration;

use super::Ending;
use crate::office::{self, Keeper, Predecessor, Setup};

/// The exit status of a wrong configuration.
const WRONG: u8 = 2;

pub(super) fn run(file: PathBuf) -> Result<(), Ending> {
    let predecessor = Predecessor::find();
    let teller = predecessor.as_ref().and_then(Predecessor::teller);
    let outcome = serve(file, predecessor);
    if let (Err(ending), Some(teller)) = (&outcome, &teller) {
        teller.refuse(&ending.sentence, ending.status == WRONG);
    }
    outcome
}

fn serve(file: PathBuf, predecessor: Option<Predecessor>) -> Result<(), Ending> {
    // Before anything opens a descriptor that could be taken for a handed one.
    let handed = office::take_handed().map_err(|error| Ending {
        status: 3,
        sentence: format!("LISTEN_FDS, LISTEN_FDNAMES: {error}"),
    })?;
    // Before the first thread, and before there is much to keep.
    let keeper = Keeper::fork();
    office::open_diary("info");
    if let Err(error) = &keeper {
        log::warn!("no keeper: {error}: this process cannot be upgraded");
    }
    let plan = crate::config::load(&file)?;
    let outcome = office::run(Setup {
        plan,
        file: Some(file),
        handed,
        on_ready: None,
        orders: None,
        keeper: keeper.ok(),
        predecessor,
    });
    // A reader that has stalled does not keep us.
    office::flush_diary(Duration::from_secs(1));
    Ok(outcome?)
}
