//! The scribe: the thread that writes the access log, so that no worker ever touches a file. It empties the workers'
//! journals, turns ids into names and writes lines.
//!
//! It must never stop traffic: a slow or full file loses lines, which are counted. It sleeps long while the log is off.

pub mod line;
pub mod sink;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::ids::{ListenerId, Refusal};

use super::board::Board;
use line::Format;
use sink::{Place, Sink};

/// How often journals are emptied while the log is on: a journal of 8192 records then carries 400,000 sessions a second.
const PASS: Duration = Duration::from_millis(20);
/// How long to sleep while the log is off.
const IDLE: Duration = Duration::from_secs(3600);
/// Lines are handed to the kernel in pieces of about this size.
const PIECE_BYTES: usize = 64 * 1024;
/// An error of the log's file is said this often.
const COMPLAIN: Duration = Duration::from_secs(60);

/// What the office tells the scribe.
#[derive(Debug)]
enum Order {
    Write(Place, Format),
    Reopen,
    Stop,
}

/// The office's end of the scribe.
#[derive(Debug)]
pub struct Scribe {
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Scribe {
    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel's, when it gives no thread.
    pub fn start(board: Arc<Board>, place: Place, format: Format) -> io::Result<Scribe> {
        let (orders, inbox) = unbounded();
        // Opening a file may block (a pipe that nobody reads), so that is left to the thread, too.
        let thread = std::thread::Builder::new()
            .name("scribe".to_owned())
            .spawn(move || Desk::new(board, place, format).work(&inbox))?;
        Ok(Scribe {
            orders,
            thread: Some(thread),
        })
    }

    /// Writes there from now on.
    pub fn write_to(&self, place: Place, format: Format) {
        let _ = self.orders.send(Order::Write(place, format));
    }

    /// Opens the file again, after a rotation.
    pub fn reopen(&self) {
        let _ = self.orders.send(Order::Reopen);
    }

    /// Writes what is left and ends; waits at most `patience` for it, since a log that blocks must not keep the
    /// process from ending.
    pub fn stop(mut self, patience: Duration) {
        let _ = self.orders.send(Order::Stop);
        let deadline = Instant::now() + patience;
        let Some(thread) = self.thread.take() else {
            return;
        };
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        if thread.is_finished() && thread.join().is_err() {
            log::error!("the thread that writes the access log failed");
        }
    }
}

struct Desk {
    board: Arc<Board>,
    sink: Sink,
    format: Format,
    lines: String,
    lines_held: u64,
    refusals_seen: BTreeMap<(ListenerId, Refusal), u64>,
    refusals_due: Instant,
    complained: Option<Instant>,
}

impl Desk {
    fn new(board: Arc<Board>, place: Place, format: Format) -> Desk {
        let (sink, opened) = Sink::open(place);
        let mut desk = Desk {
            board,
            sink,
            format,
            lines: String::with_capacity(2 * PIECE_BYTES),
            lines_held: 0,
            refusals_seen: BTreeMap::new(),
            refusals_due: Instant::now() + Duration::from_secs(1),
            complained: None,
        };
        desk.note(opened);
        desk
    }

    fn work(&mut self, inbox: &Receiver<Order>) {
        loop {
            let pause = if *self.sink.place() == Place::Off {
                IDLE
            } else {
                PASS
            };
            match inbox.recv_timeout(pause) {
                Ok(Order::Write(place, format)) => {
                    self.empty_journals();
                    self.flush();
                    self.format = format;
                    if place != *self.sink.place() {
                        let (sink, opened) = Sink::open(place);
                        self.sink = sink;
                        self.note(opened);
                    }
                }
                Ok(Order::Reopen) => {
                    self.empty_journals();
                    let opened = self.sink.reopen();
                    self.note(opened);
                }
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.empty_journals();
                    self.summarize_refusals();
                    self.flush();
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.empty_journals();
                    if Instant::now() >= self.refusals_due {
                        self.refusals_due = Instant::now() + Duration::from_secs(1);
                        self.summarize_refusals();
                    }
                    self.flush();
                }
            }
        }
    }

    fn empty_journals(&mut self) {
        let board = Arc::clone(&self.board);
        let names = Arc::clone(&board.view().names);
        for hatch in &board.hatches.workers {
            // At most one journal's worth, so that one busy worker cannot keep the scribe from the others.
            for _ in 0..8192 {
                let Some(record) = hatch.journal.pop() else {
                    break;
                };
                if *self.sink.place() == Place::Off {
                    continue;
                }
                line::push_session(&mut self.lines, self.format, &record, &names, &board.clock);
                self.lines_held += 1;
                if self.lines.len() >= PIECE_BYTES {
                    self.flush();
                }
            }
        }
    }

    fn summarize_refusals(&mut self) {
        let board = Arc::clone(&self.board);
        let view = board.view();
        let moment = board.clock.wall(board.clock.now());
        let mut seen = BTreeMap::new();
        for listener in &view.snapshot.listeners {
            for &reason in Refusal::ALL {
                let shards = listener.shared.workers.iter();
                let total: u64 = shards
                    .map(|shard| shard.refused[reason.index()].read())
                    .sum();
                let key = (listener.id(), reason);
                let before = self.refusals_seen.get(&key).copied().unwrap_or(0);
                seen.insert(key, total);
                if total > before && *self.sink.place() != Place::Off {
                    let name = &listener.shared.name;
                    let count = total - before;
                    line::push_refusals(&mut self.lines, self.format, moment, name, reason, count);
                    self.lines_held += 1;
                }
            }
        }
        self.refusals_seen = seen;
    }

    fn flush(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let (written, outcome) = self.sink.write(&self.lines);
        let lost = self.lines_held.saturating_sub(written);
        self.board.log_lines.fetch_add(written, Ordering::Relaxed);
        self.board.log_lost.fetch_add(lost, Ordering::Relaxed);
        self.lines.clear();
        self.lines_held = 0;
        self.note(outcome);
    }

    /// Says an error of the log's file, at most once a minute.
    fn note(&mut self, outcome: io::Result<()>) {
        let Err(error) = outcome else {
            return;
        };
        if self
            .complained
            .is_some_and(|moment| moment.elapsed() < COMPLAIN)
        {
            return;
        }
        self.complained = Some(Instant::now());
        let place = match self.sink.place() {
            Place::File(path) => path.display().to_string(),
            other => format!("{other:?}").to_lowercase(),
        };
        let lost = self.board.lines_lost();
        log::warn!("access log {place} cannot be written: {error}; {lost} lines lost so far");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::handoff::SessionRecord;
    use crate::ids::{End, Nanos, PoolId};
    use crate::office::admin::tests::board;

    fn record(id: u64) -> SessionRecord {
        SessionRecord {
            id,
            milestone: None,
            listener: ListenerId(0),
            pool: PoolId(0),
            backend: None,
            client: None,
            opened: Nanos::ZERO,
            ended: Nanos::ZERO,
            attempts: 0,
            wait_ns: 0,
            connect_ns: 0,
            bytes_in: 0,
            bytes_out: 0,
            datagrams: None,
            end: End::ClientGone,
            rtt_us: 0,
            retrans: 0,
        }
    }

    fn lines(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_the_journals_hold_is_written_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let board = board();
        for id in 0..100 {
            board.hatches.workers[(id % 2) as usize]
                .journal
                .push(record(id));
        }
        let place = Place::File(path.clone());
        let scribe = Scribe::start(Arc::clone(&board), place, Format::Text).unwrap();
        scribe.stop(Duration::from_secs(10));
        let lines = lines(&path);
        assert_eq!(lines.len(), 100);
        assert!(lines[0].contains(" listener=l client=unix pool=p backend=- "));
        assert_eq!(board.log_lines.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn refusals_are_one_line_for_each_listener_and_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let board = board();
        let place = Place::File(path.clone());
        let scribe = Scribe::start(Arc::clone(&board), place, Format::Text).unwrap();
        let view = board.view();
        for shard in &view.snapshot.listeners[0].shared.workers[..2] {
            shard.refused[Refusal::ListenerLimit.index()].add(5);
        }
        scribe.stop(Duration::from_secs(10));
        let lines = lines(&path);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with(" listener=l refused=listener-limit count=10"));
    }

    #[test]
    fn a_log_that_cannot_be_written_loses_lines_and_counts_them() {
        let folder = tempfile::tempdir().unwrap();
        let board = board();
        board.hatches.workers[0].journal.push(record(1));
        let place = Place::File(folder.path().join("missing/access.log"));
        let scribe = Scribe::start(Arc::clone(&board), place, Format::Text).unwrap();
        scribe.stop(Duration::from_secs(10));
        assert_eq!(board.lines_lost(), 1);
        assert_eq!(board.log_lines.load(Ordering::Relaxed), 0);
    }
}
