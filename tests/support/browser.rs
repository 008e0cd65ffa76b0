//! A headless Chromium, driven through chromedriver by the few commands of WebDriver that a test of one page needs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::wait::{seconds, within};
use super::{net, process};

const SWITCHES: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub fn start() -> Browser {
        // Chromedriver listens on 127.0.0.1 whatever it is told.
        let port = net::free_address().port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start chromedriver (package chromium-driver)");
        let profile = tempfile::tempdir().expect("a folder for the profile");
        let mut browser = Browser {
            driver,
            address,
            session: String::new(),
            _profile: profile,
        };
        within(seconds(30), "chromedriver is ready", || {
            let status = browser.call("GET", "/status", &Value::Null)?;
            (status["ready"] == true).then_some(())
        });
        let profile = format!("--user-data-dir={}", browser._profile.path().display());
        let mut switches: Vec<&str> = SWITCHES.to_vec();
        switches.push(&profile);
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": switches },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = browser.call("POST", "/session", &wanted);
        let session = session.expect("a session of the browser");
        browser.session = session["sessionId"].as_str().unwrap().to_string();
        browser
    }

    /// The answer's value; `None` if there is no answer, or an error.
    fn call(&self, method: &str, path: &str, body: &Value) -> Option<Value> {
        let limit = Duration::from_secs(60);
        let mut stream = TcpStream::connect_timeout(&self.address, seconds(5)).ok()?;
        stream.set_read_timeout(Some(limit)).ok()?;
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: \
             close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
        let answer = read_answer(&mut stream)?;
        let value = serde_json::from_str::<Value>(&answer).ok()?["value"].take();
        match value["error"].as_str() {
            Some(error) => {
                eprintln!("{method} {path}: {error}: {}", value["message"]);
                None
            }
            None => Some(value),
        }
    }

    #[track_caller]
    fn order(&self, path: &str, body: &Value) -> Value {
        let path = format!("/session/{}{path}", self.session);
        let value = self.call("POST", &path, body);
        value.unwrap_or_else(|| panic!("the browser does not do {path}"))
    }

    pub fn open(&self, url: &str) {
        self.order("/url", &json!({ "url": url }));
    }

    /// Runs a script in the page, and returns what it returns.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.order("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    #[track_caller]
    pub fn until(&self, what: &str, condition: &str) {
        let script = format!("return Boolean({condition})");
        within(seconds(30), what, || {
            (self.run(&script) == true).then_some(())
        });
    }

    /// Keys as a user presses them, wherever the focus is. U+E004 is Tab, U+E006 Enter, U+E00C Escape.
    pub fn press(&self, keys: &str) {
        let strokes = keys.chars().flat_map(|key| {
            ["keyDown", "keyUp"].map(|what| json!({ "type": what, "value": key.to_string() }))
        });
        let strokes: Vec<Value> = strokes.collect();
        self.order(
            "/actions",
            &json!({ "actions": [{ "type": "key", "id": "keys", "actions": strokes }] }),
        );
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        let order = json!({ "cmd": command, "params": parameters });
        self.order("/goog/cdp/execute", &order)
    }

    /// Becomes a screen of this size, light or dark.
    pub fn become_screen(&self, width: u32, height: u32, dark: bool) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", &media);
    }

    /// What is to be seen now, as PNG.
    pub fn picture(&self) -> Vec<u8> {
        let path = format!("/session/{}/screenshot", self.session);
        let value = self.call("GET", &path, &Value::Null).expect("a picture");
        let text = value.as_str().expect("a picture as text");
        BASE64_STANDARD.decode(text).expect("base64")
    }

    /// What the page, and the browser about it, has written to its console since the last call.
    pub fn console(&self) -> Vec<String> {
        let lines = self.order("/se/log", &json!({ "type": "browser" }));
        let lines = lines.as_array().cloned().unwrap_or_default();
        lines.iter().map(ToString::to_string).collect()
    }
}

fn read_answer(stream: &mut TcpStream) -> Option<String> {
    let mut answer = Vec::new();
    let mut piece = [0; 8192];
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                let is_it = key.eq_ignore_ascii_case("content-length");
                is_it.then(|| value.trim().parse::<usize>().ok())?
            })?;
            if body.len() >= length {
                return Some(body[..length].to_string());
            }
        }
        match stream.read(&mut piece).ok()? {
            0 => return None,
            n => answer.extend_from_slice(&piece[..n]),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser with the session.
        let _ = self.call(
            "DELETE",
            &format!("/session/{}", self.session),
            &Value::Null,
        );
        process::signal(self.driver.id(), "TERM");
        if process::wait_exit(&mut self.driver, seconds(5)).is_none() {
            let _ = self.driver.kill();
            let _ = self.driver.wait();
        }
    }
}
