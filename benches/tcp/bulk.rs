//! Bulk streams by iperf3, and what it says of them.

use std::io;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::stand::place::{BULK_BACKEND, LOAD_CORE, wait_for_listener};
use crate::stand::process::end;
use crate::stand::system;

/// iperf3's serving half; ended when dropped.
#[derive(Debug)]
pub struct BulkBackend {
    child: Child,
}

impl BulkBackend {
    pub fn start() -> io::Result<Self> {
        let mut command = Command::new("iperf3");
        command.arg("-s").arg("-p").arg(BULK_BACKEND.to_string());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        system::tie(&mut command, &[LOAD_CORE]);
        let child = command
            .spawn()
            .map_err(|error| io::Error::other(format!("iperf3: {error}")))?;
        let backend = Self { child };
        wait_for_listener(BULK_BACKEND, Duration::from_secs(3))?;
        Ok(backend)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for BulkBackend {
    fn drop(&mut self) {
        end(&mut self.child, system::SIGTERM);
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    pub bytes: f64,
    pub seconds: f64,
    /// CPU seconds of the iperf3 client, which is gone by the time it could be asked.
    pub client_cpu: f64,
}

/// Starts the sending (with `-R` receiving) half.
pub fn start_client(address: SocketAddr, flags: &[&str], length: Duration) -> io::Result<Child> {
    let mut command = Command::new("iperf3");
    command
        .args(["-J", "-c", &address.ip().to_string()])
        .args(["-p", &address.port().to_string()])
        .args(["-t", &format!("{:.0}", length.as_secs_f64().ceil())])
        .args(["--connect-timeout", "3000"])
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    system::tie(&mut command, &[LOAD_CORE]);
    command.spawn()
}

pub fn finish_client(child: Child) -> io::Result<Transfer> {
    let output = child.wait_with_output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    if let Some(error) = report.get("error").and_then(Value::as_str) {
        return Err(io::Error::other(format!("iperf3: {error}")));
    }
    let number = |pointer: &str| {
        report
            .pointer(pointer)
            .and_then(Value::as_f64)
            .ok_or_else(|| io::Error::other(format!("iperf3's report lacks {pointer}")))
    };
    let seconds = number("/end/sum_received/seconds")?;
    Ok(Transfer {
        bytes: number("/end/sum_received/bytes")?,
        seconds,
        client_cpu: number("/end/cpu_utilization_percent/host_total")? / 100.0 * seconds,
    })
}
