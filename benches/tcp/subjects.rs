//! Who is measured: no balancer at all, HAProxy with and without splice, nginx, ringway in its variants; how each is
//! configured as a skilled user would, started on its core, and ended. Each has two listeners, `small` and `bulk`, in
//! front of three addresses of one backend process.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::stand::course::{self, Subject as _};
use crate::stand::place::{
    BALANCER_CORE, BULK_BACKEND, BULK_LISTENER, LOAD_CORE, SMALL_BACKEND, SMALL_LISTENER,
    wait_for_listener,
};
use crate::stand::process::Balancer;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Direct,
    Haproxy {
        splice: bool,
    },
    Nginx,
    Ringway {
        name: &'static str,
        binary: PathBuf,
        workers: u32,
        spin: &'static str,
    },
}

/// A balancer at work, or nothing where clients go to the backend directly.
#[derive(Debug)]
pub struct Running {
    pub small: SocketAddr,
    pub bulk: SocketAddr,
    balancer: Option<Balancer>,
}

const BACKENDS: [&str; 3] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];

impl course::Subject for Subject {
    fn name(&self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy { splice: false } => "haproxy",
            Self::Haproxy { splice: true } => "haproxy-splice",
            Self::Nginx => "nginx",
            Self::Ringway { name, .. } => name,
        }
    }
}

impl Subject {
    pub fn start(&self) -> io::Result<Running> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if *self == Self::Direct {
            return Ok(Running {
                small: local(SMALL_BACKEND),
                bulk: local(BULK_BACKEND),
                balancer: None,
            });
        }
        let cores: &[usize] = match self {
            Self::Ringway { workers: 2.., .. } => &[LOAD_CORE, BALANCER_CORE],
            _ => &[BALANCER_CORE],
        };
        let is_ready = || {
            let mut ports = [SMALL_LISTENER, BULK_LISTENER].into_iter();
            ports.try_for_each(|port| wait_for_listener(port, Duration::from_secs(5)))
        };
        let command = |folder: &Path| self.command(folder);
        let balancer = Balancer::start(self.name(), cores, command, is_ready)?;
        Ok(Running {
            small: local(SMALL_LISTENER),
            bulk: local(BULK_LISTENER),
            balancer: Some(balancer),
        })
    }

    fn command(&self, folder: &Path) -> io::Result<Command> {
        let file = folder.join("configuration");
        let write = |text: String| fs::write(&file, text);
        match self {
            Self::Direct => Err(io::Error::other("nothing to start")),
            Self::Haproxy { splice } => {
                write(haproxy(*splice))?;
                let mut command = Command::new("haproxy");
                command.arg("-db").arg("-f").arg(&file);
                Ok(command)
            }
            Self::Nginx => {
                write(nginx())?;
                let mut command = Command::new("nginx");
                command.arg("-p").arg(folder).arg("-c").arg(&file);
                Ok(command)
            }
            Self::Ringway {
                binary,
                workers,
                spin,
                ..
            } => {
                write(ringway(*workers, spin))?;
                let mut command = Command::new(binary);
                command.arg("run").arg("-c").arg(&file);
                Ok(command)
            }
        }
    }
}

impl Running {
    pub fn pids(&self) -> &[u32] {
        self.balancer.as_ref().map_or(&[], |it| &it.pids)
    }
}

/// Large buffers and pipes as bulk wants them; no logs; no health checks, as for all. Splicing is asked for outright:
/// with `splice-auto` 2.6 goes on copying, even streams that fill its buffer each time.
fn haproxy(splice: bool) -> String {
    let splice = if splice {
        "option splice-request\n    option splice-response"
    } else {
        ""
    };
    let mut text = format!(
        "global
    nbthread 1
    maxconn 9300
    maxpipes 300
    tune.bufsize 65536
    tune.pipesize 524288
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    backlog 65535
    option tcp-smart-accept
    option tcp-smart-connect
    {splice}
"
    );
    for (name, listener, backend) in services() {
        text += &format!(
            "frontend {name}\n    bind 127.0.0.1:{listener}\n    default_backend {name}\nbackend {name}\n    balance leastconn\n"
        );
        for address in BACKENDS {
            text += &format!("    server {address} {address}:{backend}\n");
        }
    }
    text
}

fn nginx() -> String {
    let mut text = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
worker_processes 1;
worker_rlimit_nofile 20000;
daemon off;
user root;
pid nginx.pid;
error_log stderr crit;
events {
    worker_connections 19500;
    multi_accept on;
}
stream {
    access_log off;
    proxy_buffer_size 64k;
    proxy_connect_timeout 5s;
    proxy_timeout 1h;
"
    .to_owned();
    for (name, listener, backend) in services() {
        text += &format!("    upstream {name} {{\n        least_conn;\n");
        for address in BACKENDS {
            text += &format!("        server {address}:{backend} max_fails=0;\n");
        }
        text += &format!(
            "    }}\n    server {{\n        listen 127.0.0.1:{listener} reuseport backlog=65535;\n        proxy_pass {name};\n    }}\n"
        );
    }
    text + "}\n"
}

fn ringway(workers: u32, spin: &str) -> String {
    let mut text = format!(
        "[global]
workers = {workers}
pin = \"on\"
access_log = \"off\"
spin = \"{spin}\"
shutdown_grace = \"1s\"

[admin]
bind = \"\"
"
    );
    for (name, listener, backend) in services() {
        text += &format!(
            "
[[listener]]
name = \"{name}\"
bind = \"127.0.0.1:{listener}\"
pool = \"{name}\"

[[pool]]
name = \"{name}\"
algorithm = \"least-connections\"
[pool.health]
kind = \"none\"
"
        );
        for address in BACKENDS {
            text += &format!("[[pool.backend]]\naddress = \"{address}:{backend}\"\n");
        }
    }
    text
}

fn services() -> [(&'static str, u16, u16); 2] {
    [
        ("small", SMALL_LISTENER, SMALL_BACKEND),
        ("bulk", BULK_LISTENER, BULK_BACKEND),
    ]
}
