//! The stand that all benches measure on: the cores and the network of a run, a balancer's process, what is read around
//! a stretch of load, repetitions in turn, and the report. It knows no protocol and no load.
#![allow(dead_code)]

pub mod course;
pub mod histogram;
pub mod meter;
pub mod options;
pub mod place;
pub mod process;
pub mod report;
pub mod stage;
pub mod system;
pub mod watch;
