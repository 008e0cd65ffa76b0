//! What a successor reads for itself instead of taking it over.

use crate::service::Service;
use crate::setup;
use crate::support::backends::{Backend, read_line};
use crate::support::net;
use crate::support::ringway::{listener, pool};
use crate::support::wait::{seconds, within};

/// A file named on the command line is found again, and what a new file says holds from the upgrade on.
#[test]
fn the_successor_reads_the_file_anew() {
    let backend = Backend::named("a");
    let (kept, removed, added) = (
        net::free_address(),
        net::free_address(),
        net::free_address(),
    );
    let only = pool("main", "", &[("only", backend.address)]);
    let both = listener("kept", kept, "main") + &listener("removed", removed, "main");
    let mut service = Service::start(setup(both + &only));
    let next = listener("kept", kept, "main") + &listener("added", added, "main") + &only;
    service.ringway.rewrite(next);
    service.upgrade();
    service.wait_living(1);
    for address in [kept, added] {
        let greeting = within(seconds(5), "served", || {
            read_line(net::connect(address)).ok()
        });
        assert_eq!(greeting, "a");
    }
    assert!(net::try_connect(removed).is_err(), "nobody listens there");
    service.stop();
}
