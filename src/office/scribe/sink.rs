//! Where access-log lines go: standard output, standard error, the journal or a file that can be opened again after a
//! rotation. Nothing here may stop the process: an error is counted by the caller and said once a minute.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use crate::office::journald::{self, Entry, Journald};

/// What `access_log` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Off,
    Stdout,
    Stderr,
    /// Standard error, which is the journal's.
    Journal,
    File(PathBuf),
}

/// An opened place.
#[derive(Debug)]
pub struct Sink {
    place: Place,
    file: Option<File>,
    journal: Journald,
    /// The last write ended in the middle of a line.
    torn: bool,
}

impl Sink {
    /// Opens `place`. A file that cannot be opened leaves a sink that tries again at each write.
    pub fn open(place: Place) -> (Sink, io::Result<()>) {
        let mut sink = Sink {
            place,
            file: None,
            journal: Journald::default(),
            torn: false,
        };
        let opened = sink.reopen();
        (sink, opened)
    }

    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Opens the file again under its path; the old one stays in use if that fails.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reopen(&mut self) -> io::Result<()> {
        let own = |stream: BorrowedFd<'_>| stream.try_clone_to_owned().map(File::from);
        match &self.place {
            Place::Off | Place::Journal => return Ok(()),
            // The library's own streams buffer, and then nobody knows which lines arrived.
            Place::Stdout | Place::Stderr if self.file.is_some() => return Ok(()),
            Place::Stdout => self.file = Some(own(io::stdout().as_fd())?),
            Place::Stderr => self.file = Some(own(io::stderr().as_fd())?),
            Place::File(path) => {
                let file = OpenOptions::new().append(true).create(true).open(path)?;
                self.file = Some(file);
                self.torn = false;
            }
        }
        Ok(())
    }

    /// Writes whole lines; how many of them are written, and what kept it from the others.
    pub fn write(&mut self, lines: &str) -> (u64, io::Result<()>) {
        if self.place == Place::Off {
            return (0, Ok(()));
        }
        if self.place == Place::Journal {
            return self.enter(lines);
        }
        if self.file.is_none()
            && let Err(error) = self.reopen()
        {
            return (0, Err(error));
        }
        if self.torn {
            let (_, ended) = self.put(b"\n");
            if ended.is_err() {
                return (0, ended);
            }
        }
        let (count, outcome) = self.put(lines.as_bytes());
        let written = &lines.as_bytes()[..count];
        self.torn = written.last().map_or(self.torn, |last| *last != b'\n');
        let whole = written.iter().filter(|byte| **byte == b'\n').count();
        (whole as u64, outcome)
    }

    /// Each line becomes an entry, and each `key=value` in it a field that `journalctl` can ask for.
    fn enter(&mut self, lines: &str) -> (u64, io::Result<()>) {
        let (mut count, mut outcome) = (0, Ok(()));
        for line in lines.lines() {
            let mut entry = Entry::new(journald::priority(log::Level::Info), line);
            // No value that sessions bring has a space in it, and JSON has no such pairs.
            for (key, value) in line.split(' ').filter_map(|pair| pair.split_once('=')) {
                entry.field(&format!("RINGWAY_{}", key.to_ascii_uppercase()), value);
            }
            match self.journal.send(&entry.into_bytes()) {
                Ok(()) => count += 1,
                Err(error) => outcome = Err(error),
            }
        }
        (count, outcome)
    }

    /// Writes as much as can be written, and says how much that was.
    fn put(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let Some(file) = &mut self.file else {
            return (0, Err(io::Error::other("the file is not open")));
        };
        let mut count = 0;
        while count < bytes.len() {
            match file.write(&bytes[count..]) {
                Ok(0) => return (count, Err(ErrorKind::WriteZero.into())),
                Ok(more) => count += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return (count, Err(error)),
            }
        }
        (count, Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_file_is_followed_after_reopen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let (mut sink, opened) = Sink::open(Place::File(path.clone()));
        opened.unwrap();
        assert_eq!(sink.write("one\n").0, 1);
        let moved = folder.path().join("access.log.1");
        std::fs::rename(&path, &moved).unwrap();
        assert_eq!(sink.write("two\n").0, 1);
        sink.reopen().unwrap();
        assert_eq!(sink.write("three\n").0, 1);
        assert_eq!(std::fs::read_to_string(moved).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "three\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("later/access.log");
        let (mut sink, opened) = Sink::open(Place::File(path.clone()));
        assert!(opened.is_err());
        let (written, outcome) = sink.write("lost\n");
        assert!(written == 0 && outcome.is_err());
        std::fs::create_dir(folder.path().join("later")).unwrap();
        assert_eq!(sink.write("kept\n").0, 1);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "kept\n");
    }
}
