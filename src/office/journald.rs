//! Writes to systemd's journal in its own protocol, where standard error leads there anyway: one datagram an entry, with
//! fields (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/). Whoever uses it is a thread that may wait.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;

const SOCKET: &str = "/run/systemd/journal/socket";
/// Which program, as `journalctl -t` asks for it.
const IDENTIFIER: &str = "ringway";

/// Importance as syslog(3) numbers it.
#[must_use]
pub fn priority(level: log::Level) -> u8 {
    match level {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        log::Level::Debug | log::Level::Trace => 7,
    }
}

/// Whether standard error is the journal's: `$JOURNAL_STREAM` names its device and inode.
#[must_use]
pub fn is_stderr() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(own) = io::stderr().as_fd().try_clone_to_owned() else {
        return false;
    };
    let metadata = std::fs::File::from(own).metadata();
    metadata.is_ok_and(|own| *stream == *format!("{}:{}", own.dev(), own.ino()))
}

/// An entry in the making.
#[derive(Debug, Default)]
pub struct Entry {
    bytes: Vec<u8>,
}

impl Entry {
    #[must_use]
    pub fn new(priority: u8, message: &str) -> Entry {
        let mut entry = Entry::default();
        entry.field("MESSAGE", message);
        entry.field("PRIORITY", &priority.to_string());
        entry.field("SYSLOG_IDENTIFIER", IDENTIFIER);
        entry
    }

    /// Adds a field; `name` consists of capital letters, digits and underscores.
    pub fn field(&mut self, name: &str, value: &str) {
        self.bytes.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            // A value of several lines goes with its length.
            self.bytes.push(b'\n');
            self.bytes
                .extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.bytes.push(b'=');
        }
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(b'\n');
    }

    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The way to the journal.
#[derive(Debug, Default)]
pub struct Journald {
    socket: Option<UnixDatagram>,
}

impl Journald {
    /// Sends an entry. A journal that was restarted is found again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send(&mut self, entry: &[u8]) -> io::Result<()> {
        if let Some(socket) = &self.socket
            && socket.send(entry).is_ok()
        {
            return Ok(());
        }
        let socket = UnixDatagram::unbound()?;
        socket.connect(SOCKET)?;
        socket.send(entry)?;
        self.socket = Some(socket);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_written_as_the_journal_reads_them() {
        let mut entry = Entry::new(priority(log::Level::Warn), "one line");
        entry.field("RINGWAY_NOTE", "two\nlines");
        let expected = b"MESSAGE=one line\nPRIORITY=4\nSYSLOG_IDENTIFIER=ringway\n\
            RINGWAY_NOTE\n\x09\0\0\0\0\0\0\0two\nlines\n";
        assert_eq!(entry.into_bytes(), expected);
    }
}
