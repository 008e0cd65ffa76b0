//! Who is measured: no balancer at all, nginx (stream), builds of ringway; how each is configured as a skilled user would.
//! Each has one listener for datagrams in front of three addresses of one backend process.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::catalogue::Keep;
use crate::stand::course;
use crate::stand::place::{BALANCER_CORE, SMALL_BACKEND, SMALL_LISTENER, wait_for_bound};
use crate::stand::process::Balancer;

#[derive(Debug, Clone)]
pub enum Program {
    Nothing,
    Nginx,
    Ringway(PathBuf),
}

#[derive(Debug, Clone)]
pub struct Subject {
    pub name: &'static str,
    pub program: Program,
}

pub const BACKENDS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(127, 0, 0, 1),
    Ipv4Addr::new(127, 0, 0, 2),
    Ipv4Addr::new(127, 0, 0, 3),
];

impl course::Subject for Subject {
    fn name(&self) -> &'static str {
        self.name
    }
}

impl Subject {
    /// Where clients write to.
    pub fn front(&self) -> SocketAddr {
        let port = match self.program {
            Program::Nothing => SMALL_BACKEND,
            _ => SMALL_LISTENER,
        };
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    pub fn start(&self, keep: Keep) -> io::Result<Option<Balancer>> {
        let command = |folder: &Path| {
            let file = folder.join("configuration");
            match &self.program {
                Program::Nothing => Err(io::Error::other("nothing to start")),
                Program::Nginx => {
                    fs::write(&file, nginx(keep))?;
                    let mut command = Command::new("nginx");
                    command.arg("-p").arg(folder).arg("-c").arg(&file);
                    Ok(command)
                }
                Program::Ringway(binary) => {
                    fs::write(&file, ringway(keep))?;
                    let mut command = Command::new(binary);
                    command.arg("run").arg("-c").arg(&file);
                    Ok(command)
                }
            }
        };
        if let Program::Nothing = self.program {
            return Ok(None);
        }
        let is_ready = || wait_for_bound(SMALL_LISTENER, Duration::from_secs(5));
        Balancer::start(self.name, &[BALANCER_CORE], command, is_ready).map(Some)
    }
}

/// A flow takes two of nginx's connections and one descriptor, of which there may be no more than the hard limit.
fn nginx(keep: Keep) -> String {
    let (timeout, responses) = match keep {
        Keep::OneAnswer => ("5s", "proxy_responses 1;"),
        Keep::Second => ("1s", ""),
        Keep::Hours => ("1h", ""),
    };
    let servers: String = BACKENDS
        .iter()
        .map(|address| format!("        server {address}:{SMALL_BACKEND} max_fails=0;\n"))
        .collect();
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
worker_processes 1;
worker_rlimit_nofile 20000;
daemon off;
user root;
pid nginx.pid;
error_log stderr crit;
events {{
    worker_connections 40000;
    multi_accept on;
}}
stream {{
    access_log off;
    proxy_timeout {timeout};
    {responses}
    upstream small {{
{servers}    }}
    server {{
        listen 127.0.0.1:{SMALL_LISTENER} udp reuseport rcvbuf=4m sndbuf=4m;
        proxy_pass small;
    }}
}}
"
    )
}

fn ringway(keep: Keep) -> String {
    let (timeout, responses) = match keep {
        Keep::OneAnswer => ("5s", 1),
        Keep::Second => ("1s", 0),
        Keep::Hours => ("1h", 0),
    };
    let backends: String = BACKENDS
        .iter()
        .map(|address| format!("[[pool.backend]]\naddress = \"{address}:{SMALL_BACKEND}\"\n"))
        .collect();
    format!(
        "[global]
workers = 1
pin = \"on\"
access_log = \"off\"
shutdown_grace = \"1s\"

[admin]
bind = \"\"

[[listener]]
name = \"small\"
bind = \"127.0.0.1:{SMALL_LISTENER}\"
protocol = \"udp\"
pool = \"small\"

[[pool]]
name = \"small\"
algorithm = \"round-robin\"
[pool.health]
kind = \"none\"
[pool.udp]
idle_timeout = \"{timeout}\"
responses = {responses}
{backends}"
    )
}
