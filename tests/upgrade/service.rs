//! A service of one or more generations: the process that the test started, and those that followed it. None of them
//! outlives the test.

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;

use crate::support::process;
use crate::support::ringway::{Ringway, Setup, run};
use crate::support::wait::{seconds, until, within};

pub struct Service {
    pub ringway: Ringway,
    pids: BTreeSet<u32>,
}

impl Service {
    pub fn start(setup: Setup) -> Service {
        let ringway = setup.with_socket().start();
        let pids = BTreeSet::from([ringway.pid()]);
        Service { ringway, pids }
    }

    /// What `ringway upgrade` prints and how it ends.
    pub fn ask(&self) -> Output {
        run(&[
            "upgrade",
            "--socket",
            self.ringway.socket().to_str().unwrap(),
        ])
    }

    /// `ringway reload` of the newest, which must work.
    #[track_caller]
    pub fn reload(&self) {
        let done = run(&[
            "reload",
            "--socket",
            self.ringway.socket().to_str().unwrap(),
        ]);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said} {}", self.ringway.stderr());
    }

    /// `ringway upgrade`, which must work; the new process.
    #[track_caller]
    pub fn upgrade(&mut self) -> u32 {
        let before = self.generation();
        self.forget_ended();
        let done = self.ask();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said} {}", self.ringway.stderr());
        self.follow(before)
    }

    /// By SIGUSR2.
    #[track_caller]
    pub fn upgrade_by_signal(&mut self) -> u32 {
        let before = self.generation();
        self.forget_ended();
        process::signal(self.newest(), "USR2");
        self.follow(before)
    }

    /// Their numbers come round again.
    fn forget_ended(&mut self) {
        self.pids.retain(|pid| is_alive(*pid));
    }

    #[track_caller]
    fn follow(&mut self, before: u64) -> u32 {
        // Until the old one has let go of the admin address, it may still be the one that answers.
        let newest = within(seconds(20), "the next generation answers", || {
            let (_, text) = self.ringway.get("/v1/status").ok()?;
            let status: serde_json::Value = serde_json::from_str(&text).ok()?;
            let process = &status["process"];
            let is_next = process["generation"].as_u64() == Some(before + 1);
            process["pid"].as_u64().filter(|_| is_next)
        });
        until(seconds(20), "it alone answers", || {
            self.generation() == before + 1
        });
        self.ringway.may_end();
        let newest = u32::try_from(newest).unwrap();
        assert!(self.pids.insert(newest), "a process of its own");
        newest
    }

    pub fn process(&self) -> serde_json::Value {
        self.ringway.status()["process"].clone()
    }

    pub fn generation(&self) -> u64 {
        self.process()["generation"].as_u64().unwrap()
    }

    pub fn newest(&self) -> u32 {
        let pid = self.process()["pid"].as_u64().unwrap();
        u32::try_from(pid).unwrap()
    }

    pub fn first(&self) -> u32 {
        self.ringway.pid()
    }

    /// Those that live, the newest included.
    pub fn living(&mut self) -> Vec<u32> {
        // One that has ended is its parent's until that has looked.
        let _ = self.ringway.is_running();
        let pids = self.pids.iter().copied();
        pids.filter(|pid| is_alive(*pid)).collect()
    }

    #[track_caller]
    pub fn wait_living(&mut self, many: usize) {
        within(seconds(20), &format!("{many} generations live"), || {
            (self.living().len() == many).then_some(())
        });
    }

    /// SIGTERM to the newest ends all.
    #[track_caller]
    pub fn stop(&mut self) {
        self.ringway.may_end();
        process::signal(self.newest(), "TERM");
        self.wait_living(0);
        assert!(
            !self.ringway.socket().exists(),
            "the admin socket's file is left"
        );
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.ringway.may_end();
        for pid in self.living() {
            if pid != self.first() {
                process::signal(pid, "KILL");
            }
        }
    }
}

/// Whether the process lives and has not ended.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Children of a process by name.
pub fn children(pid: u32) -> Vec<(u32, String)> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = list.split_whitespace().filter_map(|child| {
        let pid = child.parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some((pid, name.trim_end().to_owned()))
    });
    children.collect()
}
