//! A service manager that only writes down what it is told, and holds the sockets that it is given.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::thread;

use sendfd::RecvWithFd;

use crate::support::wait::{seconds, within};

/// One datagram.
#[derive(Clone, Debug)]
pub struct Message {
    pub place: usize,
    pub text: String,
    /// How many came with it.
    pub sockets: usize,
}

#[derive(Default)]
struct Heard {
    messages: Vec<Message>,
    sockets: Vec<Vec<OwnedFd>>,
}

pub struct Manager {
    folder: tempfile::TempDir,
    heard: Arc<Mutex<Heard>>,
}

impl Manager {
    pub fn new() -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let shared = Arc::clone(&heard);
        // It ends with the test's process: it holds nothing but this socket.
        thread::spawn(move || listen(&socket, &shared));
        Manager { folder, heard }
    }

    pub fn path(&self) -> String {
        self.folder.path().join("notify").display().to_string()
    }

    /// All messages so far with this in them.
    pub fn with(&self, part: &str) -> Vec<Message> {
        let heard = self.heard.lock().unwrap();
        let messages = heard.messages.iter();
        messages
            .filter(|m| m.text.contains(part))
            .cloned()
            .collect()
    }

    pub fn text(&self, place: usize) -> String {
        self.heard.lock().unwrap().messages[place].text.clone()
    }

    /// Closes what came with messages that have this in them.
    pub fn close_all(&self, part: &str) {
        for message in self.with(part) {
            self.heard.lock().unwrap().sockets[message.place].clear();
        }
    }

    /// Waits for a message with this in it; returns its place.
    #[track_caller]
    pub fn wait_for(&self, part: &str) -> usize {
        within(seconds(10), part, || {
            self.with(part).last().map(|m| m.place)
        })
    }

    /// The same, but behind that place.
    #[track_caller]
    pub fn wait_after(&self, place: usize, part: &str) -> usize {
        within(seconds(10), part, || {
            let last = self.with(part).last().map(|m| m.place);
            last.filter(|&found| found > place)
        })
    }
}

fn listen(socket: &UnixDatagram, heard: &Mutex<Heard>) {
    let mut bytes = [0u8; 4096];
    let mut raw: [RawFd; 253] = [-1; 253];
    while let Ok((length, count)) = socket.recv_with_fd(&mut bytes, &mut raw) {
        let sockets: Vec<OwnedFd> = raw[..count]
            .iter()
            // SAFETY: the kernel has just opened these descriptors for this message, and nobody else knows them.
            .map(|&raw| unsafe { OwnedFd::from_raw_fd(raw) })
            .collect();
        let mut heard = heard.lock().unwrap();
        let message = Message {
            place: heard.messages.len(),
            text: String::from_utf8_lossy(&bytes[..length]).into_owned(),
            sockets: sockets.len(),
        };
        heard.messages.push(message);
        heard.sockets.push(sockets);
    }
}
