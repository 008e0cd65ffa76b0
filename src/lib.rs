//! ringway: a layer-4 load balancer for Linux on io_uring. This page is the map of the house.
//!
//! # The idea
//!
//! A core's work is one straight street: kernel → answer → event → decision → action → submission → kernel. Each step is a
//! room, and a room is a folder. The control plane publishes the state of the world as one immutable snapshot; the data
//! plane answers in numbers and through bounded queues. Nothing else passes between them.
//!
//! # Rooms, and whom each may name
//!
//! | room | what it is | may name |
//! |---|---|---|
//! | [`ids`] | the vocabulary: sides, ids, addresses, time, why things end | – |
//! | [`config`] | front desk: text → validated [`config::Plan`]; budget and worst-case sums | ids |
//! | [`balance`] | map room: which backend a session gets; pure | ids |
//! | [`wire`] | formats of other people's protocols: PROXY headers, ClientHellos, PostgreSQL packets; pure codecs | ids |
//! | [`session`] | study: what a session does next; pure, no descriptor, no errno | ids, wire |
//! | [`sys`] | tool shed: small system calls that are not io_uring; `unsafe` allowed | ids |
//! | [`uring`] | boiler room: the ring and all memory that the kernel may touch; `unsafe` allowed | ids, sys |
//! | [`handoff`] | the hatch between the planes: snapshot, counters, capacity, verdicts, queues | ids, balance, sys |
//! | [`worker`] | engine room: one thread per core; carries between boiler room and study | ids, wire, handoff, balance, session, uring, sys |
//! | [`prober`] | its own thread: health checks | ids, wire, handoff, sys |
//! | [`office`] | its own thread: snapshots, reload, admin API; and the scribe, the thread that writes logs | ids, config, balance, handoff, sys, worker and prober (their door) |
//! | [`cli`] | commands | ids, config, office |
//!
//! This file and `main.rs` name cli, config and office. `tests/tidy.rs` holds all of it: a wall that is not tested is a
//! drawing.
//!
//! # What is always true
//!
//! 1. Whatever a submission points at belongs to that operation until its last answer, lives in `uring`, and is seen by
//!    others as a ticket only.
//! 2. Every byte accepted is delivered once, in order, to its own session's other side, or the session's end says which
//!    side failed. A reset passes as a reset, never as a clean end.
//! 3. A session decides without a clock, a socket, a lock or an allocation: time and chance are handed in.
//! 4. A worker waits for nothing but its ring: no lock, no file, no log line, no name.
//! 5. What can fail has failed before a snapshot is published. A refused reload changes nothing.
//! 6. What outlives a snapshot (counters, limits, verdicts) hangs on an identity, kept as long as its name stays; a small
//!    id is recycled only when nobody has held it for some seconds.
//! 7. Every session ends with exactly one [`ids::End`], every refusal with one [`ids::Refusal`]; each has one counter.
//! 8. No input from clients, backends or files panics, hangs or leaks.
//! 9. `unsafe` stands in `sys` and `uring` only, and says why it is sound.
//!
//! # Glossary
//!
//! - **Listener**: an address that clients reach. **Pool**: backends and how one is chosen. **Backend**: one server.
//! - **Session**: a client's connection and its backend's. **Side**: which of the two. **Pump**: one direction of it.
//! - **Flow**: a client address that writes datagrams to one of ours, and its socket towards a backend.
//! - **Heading**: bytes of ours that go ahead of a client's in the same datagram.
//! - **Parcel**: bytes on their way, a filled buffer or a pipe's content; it has one owner at each step.
//! - **Turn**: one round of a worker's loop. **Tag**: what a submission is recognised by when its answer comes.
//! - **Outcome**: a parsed answer of the kernel. **Verdict**: what operator and checks say of a backend.
//! - **Plan**: what the configuration asks for. **Snapshot**: the plan bound to sockets, addresses and identities.
//! - **Generation**: of a snapshot, counted from 1; of a slot, to recognise answers that come too late; of a process, counted
//!   by upgrades. **Elder**: an older process that keeps its sessions. **Keeper**: the small process that starts a successor.
//! - **Share**: what one process holds of a limit that all generations count together. **Outlet**: one socket of a flow's.
//! - **Hatch**: where a worker and the others exchange things. **Doorbell**: wakes it. **Journal**: finished sessions.
//! - **Eligible**: ready, up, and with room. **Draining**: keeps what it has, gets nothing new.
//! - **Grant**: a backend for a waiting session. **Transfer**: a fresh socket given to a less loaded worker.
//! - **Board**: where the office pins its view for those who only read. **Scribe**: writes the access log.
#![deny(unsafe_code)]

#[forbid(unsafe_code)]
pub mod balance;
#[forbid(unsafe_code)]
pub mod cli;
#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod handoff;
#[forbid(unsafe_code)]
pub mod ids;
#[forbid(unsafe_code)]
pub mod office;
#[forbid(unsafe_code)]
pub mod prober;
#[forbid(unsafe_code)]
pub mod session;
#[allow(unsafe_code)]
pub mod sys;
#[allow(unsafe_code)]
pub mod uring;
#[forbid(unsafe_code)]
pub mod wire;
#[forbid(unsafe_code)]
pub mod worker;
