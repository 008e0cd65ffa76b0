//! A reader of `/v1/events`, over any door: server-sent events, taken apart.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long one look for more bytes may take.
const LOOK: Duration = Duration::from_millis(50);

/// One event as it came.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: String,
    pub kind: String,
    pub data: serde_json::Value,
}

impl Event {
    /// A text of the event's object; empty if it has none of that name.
    pub fn text(&self, key: &str) -> &str {
        self.data[key].as_str().unwrap_or_default()
    }

    pub fn number(&self) -> u64 {
        let number = self.id.rsplit('-').next().and_then(|n| n.parse().ok());
        number.unwrap_or_else(|| panic!("no number in {self:?}"))
    }
}

pub struct EventStream {
    code: u16,
    reader: BufReader<Box<dyn Read + Send>>,
    line: String,
    id: String,
    kind: String,
    is_over: bool,
}

impl EventStream {
    /// Reads from `admin` on, from the event after `after` (`Some("0")`: from the beginning).
    pub fn open(admin: SocketAddr, after: Option<&str>) -> EventStream {
        let stream = TcpStream::connect_timeout(&admin, Duration::from_secs(5)).expect("connect");
        stream.set_read_timeout(Some(LOOK)).expect("a timeout");
        let writer = stream.try_clone().expect("a second handle");
        EventStream::ask(writer, Box::new(stream), after)
    }

    /// The same at the admin socket.
    pub fn open_unix(path: &Path, after: Option<&str>) -> EventStream {
        let stream = UnixStream::connect(path).expect("connect to the admin socket");
        stream.set_read_timeout(Some(LOOK)).expect("a timeout");
        let writer = stream.try_clone().expect("a second handle");
        EventStream::ask(writer, Box::new(stream), after)
    }

    fn ask(
        mut writer: impl Write,
        reader: Box<dyn Read + Send>,
        after: Option<&str>,
    ) -> EventStream {
        let header = after.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        write!(
            writer,
            "GET /v1/events HTTP/1.0\r\nHost: ringway\r\nAccept: text/event-stream\r\n{header}\r\n"
        )
        .expect("ask for events");
        let mut stream = EventStream {
            code: 0,
            reader: BufReader::new(reader),
            line: String::new(),
            id: String::new(),
            kind: String::new(),
            is_over: false,
        };
        let end = Instant::now() + Duration::from_secs(10);
        while let Some(line) = stream.line(end) {
            let mut words = line.split_whitespace();
            match words.next() {
                None => return stream,
                Some(word) if word.starts_with("HTTP/") => {
                    stream.code = words.next().and_then(|code| code.parse().ok()).unwrap();
                }
                Some(_) => {}
            }
        }
        panic!("no head of an answer");
    }

    /// The status of the answer.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The next event, if one comes within `limit`; `None` also at the end of the stream.
    pub fn next(&mut self, limit: Duration) -> Option<Event> {
        let end = Instant::now() + limit;
        while let Some(line) = self.line(end) {
            if let Some(id) = line.strip_prefix("id: ") {
                id.clone_into(&mut self.id);
            } else if let Some(kind) = line.strip_prefix("event: ") {
                kind.clone_into(&mut self.kind);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some(Event {
                    id: self.id.clone(),
                    kind: self.kind.clone(),
                    data: serde_json::from_str(data).expect("an event's data is JSON"),
                });
            }
        }
        None
    }

    /// Whether its other end closes it within `limit`, whatever comes before.
    pub fn ends_within(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.line(end).is_some() {}
        self.is_over
    }

    /// Passes events over until one is what is looked for.
    #[track_caller]
    pub fn find(
        &mut self,
        limit: Duration,
        what: &str,
        mut is_it: impl FnMut(&Event) -> bool,
    ) -> Event {
        let end = Instant::now() + limit;
        let mut passed = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.next(left) {
                Some(event) if is_it(&event) => return event,
                Some(event) => passed.push(event),
                None => panic!("no event within {limit:?}: {what}; passed over: {passed:#?}"),
            }
        }
    }

    /// A line without its end; what has come of one stays for the next call.
    fn line(&mut self, end: Instant) -> Option<String> {
        loop {
            match self.reader.read_line(&mut self.line) {
                Ok(0) => {
                    self.is_over = true;
                    return None;
                }
                Ok(_) if self.line.ends_with('\n') => {
                    let line = std::mem::take(&mut self.line);
                    return Some(line.trim_end().to_string());
                }
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                Err(_) => return None,
            }
            if Instant::now() >= end {
                return None;
            }
        }
    }
}
