//! The engine room: one worker per core. It carries between the boiler room (`uring`) and the study (`session`): answers
//! become events, actions become operations. It decides nothing about a session, and touches no file, name or text.
//!
//! One turn of the loop, the only loop of the data plane ([`engine`]):
//! 1. submit, wait for an answer or the next timer, copy the answers out (one system call as a rule);
//! 2. read the clock once; everything later is handed `now`;
//! 3. per answer: to its session ([`street`]), its listener ([`accepting`]) or its flow ([`flows`]);
//! 4. due timers, moves that yielded, receives that found no buffer;
//! 5. if the bell rang: the mailbox ([`world`]), grants ([`choosing`]), evictions ([`ending`]), transferred sockets;
//! 6. a slice of what the office asks ([`asking`]).

mod accepting;
mod admission;
mod asking;
mod blame;
mod choosing;
mod ending;
mod engine;
mod flows;
mod milestones;
mod pacing;
mod preface;
mod spin;
mod start;
mod street;
mod tenant;
mod warm;
mod world;

pub use crate::uring::Features;
pub use engine::{Parts, Worker};
pub use start::{Setup, start};
