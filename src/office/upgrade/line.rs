//! A link inside the office: one task reads it, one writes it, so that the office itself never waits for another process.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::sys::link::{self, Read, Reader};

use super::LineId;
use super::words::{Said, Word};

/// What comes out of a line.
#[derive(Debug)]
pub enum Heard {
    Said(Word, Vec<OwnedFd>),
    /// The other process is gone, or makes no sense.
    Ended,
}

/// One link; it is closed with this value, once what was said has been written.
#[derive(Debug)]
pub struct Line {
    pub id: LineId,
    socket: Arc<UnixDatagram>,
    say: mpsc::UnboundedSender<Said>,
    /// Words that are not written.
    unsent: Arc<AtomicUsize>,
    reading: JoinHandle<()>,
    writing: Option<JoinHandle<()>>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Line {
    /// Must be called inside the runtime.
    ///
    /// # Errors
    /// The kernel's, when the socket cannot be watched.
    pub fn open(
        id: LineId,
        socket: OwnedFd,
        tell: mpsc::Sender<(LineId, Heard)>,
    ) -> io::Result<Line> {
        link::set_waiting(socket.as_fd(), false, None)?;
        // It keeps messages apart as datagrams are, which is all that the runtime needs to know.
        let socket = Arc::new(UnixDatagram::from_std(socket.into())?);
        let (say, words) = mpsc::unbounded_channel();
        let unsent = Arc::new(AtomicUsize::new(0));
        Ok(Line {
            id,
            reading: tokio::spawn(read(id, Arc::clone(&socket), tell)),
            writing: Some(tokio::spawn(write(
                Arc::clone(&socket),
                words,
                Arc::clone(&unsent),
            ))),
            socket,
            say,
            unsent,
        })
    }

    /// Queues a word. Nobody is told if it does not arrive: that is heard as the line's end.
    pub fn say(&self, word: Word, descriptors: Vec<OwnedFd>) {
        self.unsent.fetch_add(1, Ordering::Relaxed);
        let _ = self.say.send((word, descriptors));
    }

    /// Says it only if all before it is written: who does not read is not told the same again and again, which would take
    /// more memory each time. Whether it was said.
    pub fn say_if_idle(&self, word: impl FnOnce() -> Word) -> bool {
        let is_idle = self.unsent.load(Ordering::Relaxed) == 0;
        if is_idle {
            self.say(word(), Vec::new());
        }
        is_idle
    }

    /// A copy of the socket, to be handed on.
    ///
    /// # Errors
    /// The kernel's, when no descriptor is left.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// Closes the line when all that was said is written, or after `patience`.
    pub async fn finish(mut self, patience: Duration) {
        let (nobody, _) = mpsc::unbounded_channel();
        drop(std::mem::replace(&mut self.say, nobody));
        if let Some(writing) = self.writing.take() {
            let _ = tokio::time::timeout(patience, writing).await;
        }
    }
}

async fn read(id: LineId, socket: Arc<UnixDatagram>, tell: mpsc::Sender<(LineId, Heard)>) {
    let mut reader = Reader::default();
    loop {
        if socket.readable().await.is_err() {
            break;
        }
        match socket.try_io(Interest::READABLE, || reader.read(socket.as_fd())) {
            Ok(Read::Part) => {}
            Ok(Read::Message(message)) => match Word::read(&message.bytes) {
                Ok(word) => {
                    let heard = Heard::Said(word, message.descriptors);
                    if tell.send((id, heard)).await.is_err() {
                        return;
                    }
                }
                Err(error) => log::warn!("another generation said what is not understood: {error}"),
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(Read::End) | Err(_) => break,
        }
    }
    let _ = tell.send((id, Heard::Ended)).await;
}

async fn write(
    socket: Arc<UnixDatagram>,
    mut words: mpsc::UnboundedReceiver<Said>,
    unsent: Arc<AtomicUsize>,
) {
    while let Some((word, descriptors)) = words.recv().await {
        let text = word.text();
        for piece in link::pieces(&text, &descriptors) {
            loop {
                if socket.writable().await.is_err() {
                    return;
                }
                match socket.try_io(Interest::WRITABLE, || link::send(socket.as_fd(), &piece)) {
                    Ok(()) => break,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    // The kernel may have too many descriptors under way.
                    Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err(_) => return,
                }
            }
        }
        unsent.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::office::upgrade::words::Report;

    #[tokio::test(flavor = "current_thread")]
    async fn who_does_not_read_is_not_told_the_same_without_end() {
        let (ours, theirs) = link::pair().unwrap();
        let (tell, _heard) = mpsc::channel(1);
        let line = Line::open(LineId(1), ours, tell).unwrap();
        let mut report = Report::default();
        report
            .accounts
            .insert("x".repeat(20_000), [("sessions".to_owned(), 1)].into());
        let say = async || {
            let said = line.say_if_idle(|| Word::Report(report.clone()));
            tokio::time::sleep(Duration::from_millis(1)).await;
            said
        };
        let mut said = 0;
        for _ in 0..300 {
            said += usize::from(say().await);
        }
        assert!((1..100).contains(&said), "{said} of 300");
        assert_eq!(line.unsent.load(Ordering::Relaxed), 1);
        // When it reads again, it hears what was said, and more is said.
        link::set_waiting(theirs.as_fd(), true, Some(Duration::from_secs(5))).unwrap();
        let mut reader = Reader::default();
        for _ in 0..said {
            let message = reader.wait(theirs.as_fd()).unwrap().unwrap();
            assert!(matches!(Word::read(&message.bytes), Ok(Word::Report(_))));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(say().await);
    }
}
