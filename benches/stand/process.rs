//! A balancer's process: started on its core from a configuration in a folder of its own, waited for, ended when dropped;
//! and a backend's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::meter;
use super::place::LOAD_CORE;
use super::system;

#[derive(Debug)]
pub struct Balancer {
    /// All its processes.
    pub pids: Vec<u32>,
    child: Child,
    folder: PathBuf,
}

impl Balancer {
    /// `command` writes what it needs into the folder that it is given; `is_ready` waits for the listeners.
    pub fn start(
        name: &str,
        cores: &[usize],
        command: impl FnOnce(&Path) -> io::Result<Command>,
        is_ready: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("ringway-bench-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let mut command = command(&folder)?;
        system::tie(&mut command, cores);
        let errors = fs::File::create(folder.join("errors"))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors);
        let child = command
            .spawn()
            .map_err(|error| io::Error::other(format!("{name}: {error}")))?;
        let mut balancer = Self {
            pids: vec![child.id()],
            child,
            folder,
        };
        is_ready().map_err(|error| {
            let said = fs::read_to_string(balancer.folder.join("errors")).unwrap_or_default();
            let said = said.lines().next().unwrap_or_default();
            io::Error::other(format!("{name}: {error}; it said: {said}"))
        })?;
        // Workers that a master starts after it opened the listeners, and threads that start up.
        thread::sleep(Duration::from_millis(200));
        balancer.pids = meter::family(balancer.pids[0]);
        Ok(balancer)
    }

    /// Whether it has ended by itself.
    pub fn has_died(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        end(&mut self.child, system::SIGTERM);
        // Left behind at worst.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A backend's process, which is this program once more, on the load's core; ended when dropped.
#[derive(Debug)]
pub struct Backend {
    child: Child,
}

impl Backend {
    /// `arguments` go behind `--backend`; `is_ready` waits until it serves.
    pub fn start(
        arguments: &[String],
        is_ready: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--backend").args(arguments);
        command.stdin(Stdio::null());
        system::tie(&mut command, &[LOAD_CORE]);
        let backend = Self {
            child: command.spawn()?,
        };
        is_ready()?;
        Ok(backend)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        end(&mut self.child, system::SIGTERM);
    }
}

/// Asks twice (a balancer may drain at the first), then forces.
pub fn end(child: &mut Child, signal: i32) {
    for signal in [signal, signal, system::SIGKILL] {
        system::send_signal(child.id(), signal);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1500) {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    // Killed: nothing is left to go wrong.
    let _ = child.wait();
}
