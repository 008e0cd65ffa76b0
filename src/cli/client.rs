//! The commands' way to a running instance: one request over its admin socket. It prints nothing and decides nothing.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::Ending;
use crate::config;

/// A running instance answers within milliseconds, a reload that waits for a name server within seconds; one that is stopped
/// or stuck must not keep the command for ever.
const PATIENCE: Duration = Duration::from_secs(20);
/// How soon to knock again where many others do.
const AGAIN: Duration = Duration::from_millis(20);
const ANSWER_BYTES_MAX: usize = 64 << 20;
const USUAL_FILE: &str = "config.toml";
/// Where the installed service has its configuration and its socket.
const INSTALLED_FILE: &str = "/etc/ringway/config.toml";
const INSTALLED_SOCKET: &str = "/run/ringway/admin.sock";

/// Where an instance is to be found; for commands that speak to one.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Instance {
    /// The admin socket of the instance [default: the configuration file's, else the installed service's]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The configuration file that names the socket [default: config.toml, else /etc/ringway/config.toml, if there is one]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What an instance answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub body: Bytes,
}

impl Answer {
    /// # Errors
    /// The instance's own sentence, if it did not do what was asked.
    pub fn checked(self) -> Result<Answer, Ending> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let value = self.value();
        let sentence = value["error"].as_str().unwrap_or("the answer is no answer");
        Err(Ending {
            status: match self.status {
                400 | 404 | 422 => 2,
                504 => 4,
                _ => 1,
            },
            sentence: sentence.to_owned(),
        })
    }

    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Instance {
    /// Asks for `path`, query included.
    pub fn get(&self, path: &str) -> Result<Answer, Ending> {
        self.send("GET", path, &Value::Null)
    }

    /// Asks for something to be done; `null` is no body.
    pub fn send(&self, method: &str, path: &str, body: &Value) -> Result<Answer, Ending> {
        let socket = self.find()?;
        let body = match body {
            Value::Null => Bytes::new(),
            body => Bytes::from(body.to_string()),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(format!("no runtime: {error}")))?;
        let asked = runtime.block_on(async {
            tokio::time::timeout(PATIENCE, ask(&socket, method, path, body)).await
        });
        let shown = socket.display();
        match asked {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(sentence)) => Err(failed(format!(
                "no ringway answers at {shown}: {sentence}: is it running? --socket names another place"
            ))),
            Err(_) => Err(Ending {
                status: 4,
                sentence: format!("no answer from {shown} within 20 s"),
            }),
        }
    }

    fn find(&self) -> Result<PathBuf, Ending> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let usual = [USUAL_FILE, INSTALLED_FILE].map(Path::new);
        let usual = || usual.into_iter().find(|file| file.exists());
        let plan = self.config.as_deref().or_else(usual);
        let plan = plan.map(config::load).transpose()?;
        let plan = plan.map(|plan| plan.admin).unwrap_or_default();
        let environment = |name: &str| std::env::var(name).ok();
        let found = config::admin_socket(&plan, &environment);
        // Whoever is logged in here has an $XDG_RUNTIME_DIR, but what runs is rather the service.
        let installed = Path::new(INSTALLED_SOCKET);
        let is_there = found.as_ref().is_some_and(|socket| socket.exists());
        if plan.socket.is_none() && !is_there && installed.exists() {
            return Ok(installed.to_owned());
        }
        found.ok_or_else(|| Ending {
            status: 2,
            sentence: "which instance? give --socket PATH, or -c FILE with admin.socket in it"
                .to_owned(),
        })
    }
}

fn failed(sentence: String) -> Ending {
    Ending {
        status: 1,
        sentence,
    }
}

async fn ask(socket: &Path, method: &str, path: &str, body: Bytes) -> Result<Answer, String> {
    let said = |error: hyper::Error| error.to_string();
    let stream = loop {
        match UnixStream::connect(socket).await {
            // Its queue is full: it is there, and busy.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tokio::time::sleep(AGAIN).await;
            }
            other => break other.map_err(|error| error.to_string())?,
        }
    };
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(said)?;
    let carrying = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost")
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(said)?;
    let status = response.status().as_u16();
    let limited = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let body = limited.collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    carrying.abort();
    Ok(Answer { status, body })
}
