//! ringway: a layer-4 load balancer for Linux on io_uring.
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
pub mod worker;
