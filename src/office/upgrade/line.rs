//! A link inside the office: one task reads it, one writes it, so that the office itself never waits for another process.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
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
        tell: mpsc::UnboundedSender<(LineId, Heard)>,
    ) -> io::Result<Line> {
        link::set_waiting(socket.as_fd(), false, None)?;
        // It keeps messages apart as datagrams are, which is all that the runtime needs to know.
        let socket = Arc::new(UnixDatagram::from_std(socket.into())?);
        let (say, words) = mpsc::unbounded_channel();
        Ok(Line {
            id,
            reading: tokio::spawn(read(id, Arc::clone(&socket), tell)),
            writing: Some(tokio::spawn(write(Arc::clone(&socket), words))),
            socket,
            say,
        })
    }

    /// Queues a word. Nobody is told if it does not arrive: that is heard as the line's end.
    pub fn say(&self, word: Word, descriptors: Vec<OwnedFd>) {
        let _ = self.say.send((word, descriptors));
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

async fn read(id: LineId, socket: Arc<UnixDatagram>, tell: mpsc::UnboundedSender<(LineId, Heard)>) {
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
                    if tell.send((id, heard)).is_err() {
                        return;
                    }
                }
                Err(error) => log::warn!("another generation said what is not understood: {error}"),
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(Read::End) | Err(_) => break,
        }
    }
    let _ = tell.send((id, Heard::Ended));
}

async fn write(socket: Arc<UnixDatagram>, mut words: mpsc::UnboundedReceiver<Said>) {
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
    }
}
