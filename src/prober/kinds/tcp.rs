//! The plain check: connect, and close by reset. It sends nothing and reads nothing, so that a server with a greeting
//! (MySQL) does not count a broken handshake, and leaves no TIME_WAIT behind. After a PROXY header it ends by FIN, which
//! the server reads as a connection that had nothing to say.

use crate::ids::Role;
use crate::prober::line::Farewell;
use crate::prober::report::Finding;
use crate::prober::visit::Visit;

use super::Kind;

#[derive(Debug)]
pub struct Tcp;

impl Kind for Tcp {
    async fn check(&self, visit: &mut Visit) -> Finding {
        match visit.open().await {
            Ok(mut line) => {
                if visit.is_announced() {
                    line.set_farewell(Farewell::Fin(b""));
                }
                Finding::alive(Role::Unknown)
            }
            Err(finding) => finding,
        }
    }
}
