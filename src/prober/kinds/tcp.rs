//! The plain check: connect, and reset before the connection is a whole one, so that a server with a greeting (MySQL) does
//! not count a broken handshake, none logs anything, and no TIME_WAIT is left behind. After a PROXY header it ends by FIN,
//! which the server reads as a connection that had nothing to say.

use crate::ids::Role;
use crate::prober::line::Farewell;
use crate::prober::report::Finding;
use crate::prober::visit::Visit;

use super::Kind;

#[derive(Debug)]
pub struct Tcp;

impl Kind for Tcp {
    async fn check(&self, visit: &mut Visit) -> Finding {
        let outcome = if visit.is_announced() {
            let line = visit.open().await;
            line.map(|mut line| line.set_farewell(Farewell::Fin(b"")))
        } else {
            visit.look().await
        };
        match outcome {
            Ok(()) => Finding::alive(Role::Unknown),
            Err(finding) => finding,
        }
    }
}
