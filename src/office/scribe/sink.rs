//! Where access-log lines go: standard output, standard error or a file that can be opened again after a rotation.
//! Nothing here may stop the process: an error is counted by the caller and said once a minute.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
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
        if let Place::File(path) = &self.place {
            let file = OpenOptions::new().append(true).create(true).open(path)?;
            self.file = Some(file);
            self.torn = false;
        }
        Ok(())
    }

    /// Writes whole lines.
    ///
    /// # Errors
    /// The kernel's; how much was written is unknown then.
    pub fn write(&mut self, lines: &str) -> io::Result<()> {
        if self.file.is_none() && matches!(self.place, Place::File(_)) {
            self.reopen()?;
        }
        if self.place == Place::Journal {
            return self.enter(lines);
        }
        if self.torn {
            self.put(b"\n")?;
        }
        self.torn = true;
        self.put(lines.as_bytes())?;
        self.torn = false;
        Ok(())
    }

    /// Each line becomes an entry, and each `key=value` in it a field that `journalctl` can ask for.
    fn enter(&mut self, lines: &str) -> io::Result<()> {
        for line in lines.lines() {
            let mut entry = Entry::new(journald::priority(log::Level::Info), line);
            // No value that sessions bring has a space in it, and JSON has no such pairs.
            for (key, value) in line.split(' ').filter_map(|pair| pair.split_once('=')) {
                entry.field(&format!("RINGWAY_{}", key.to_ascii_uppercase()), value);
            }
            self.journal.send(&entry.into_bytes())?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        match (&self.place, &mut self.file) {
            (Place::Off | Place::Journal, _) => Ok(()),
            (Place::Stdout, _) => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes).and_then(|()| stdout.flush())
            }
            (Place::Stderr, _) => io::stderr().lock().write_all(bytes),
            (Place::File(_), Some(file)) => file.write_all(bytes),
            (Place::File(_), None) => Err(io::Error::other("the file is not open")),
        }
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
        sink.write("one\n").unwrap();
        let moved = folder.path().join("access.log.1");
        std::fs::rename(&path, &moved).unwrap();
        sink.write("two\n").unwrap();
        sink.reopen().unwrap();
        sink.write("three\n").unwrap();
        assert_eq!(std::fs::read_to_string(moved).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "three\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("later/access.log");
        let (mut sink, opened) = Sink::open(Place::File(path.clone()));
        assert!(opened.is_err());
        assert!(sink.write("lost\n").is_err());
        std::fs::create_dir(folder.path().join("later")).unwrap();
        sink.write("kept\n").unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "kept\n");
    }
}
