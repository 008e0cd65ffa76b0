//! The diary: what the process says of itself, through crate log. It goes to standard error, or into the journal where
//! that leads there. A thread of its own writes, so that a reader who stalls holds up nobody: lines that find no room are
//! counted and lost.
//!
//! Until that thread runs (it must not be there before the sandbox is closed), lines are written at once.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use env_logger::{Builder, Env, Target, WriteStyle};
use parking_lot::Mutex;

use super::journald::{self, Entry, Journald};

/// Lines that may wait to be written.
const LINES: usize = 4096;
/// What a panic waits for what was said before it.
const LAST_WORDS: Duration = Duration::from_millis(200);

static QUEUE: OnceLock<Sender<Vec<u8>>> = OnceLock::new();
static QUEUED: AtomicU64 = AtomicU64::new(0);
static WRITTEN: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);

/// Begins the diary of a process that serves; `RUST_LOG` says what is worth a line, else `default`.
pub fn open(default: &str) {
    let mut builder = Builder::from_env(Env::default().default_filter_or(default));
    let is_journal = journald::is_stderr();
    if is_journal {
        builder.format(|out, record| {
            let priority = journald::priority(record.level());
            let entry = Entry::new(priority, &record.args().to_string());
            out.write_all(&entry.into_bytes())
        });
    } else {
        builder.format_timestamp_millis().format_target(false);
        if io::stderr().is_terminal() {
            builder.write_style(WriteStyle::Always);
        }
    }
    builder.target(Target::Pipe(Box::new(Pen {
        paper: Mutex::new(paper(is_journal)),
    })));
    builder.init();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        flush(LAST_WORDS);
        usual(panic);
    }));
}

/// From now on another thread writes.
///
/// # Errors
/// The kernel's, when it gives no thread.
pub fn start_thread() -> io::Result<()> {
    let (queue, lines) = bounded(LINES);
    let is_journal = journald::is_stderr();
    std::thread::Builder::new()
        .name("diary".to_owned())
        .spawn(move || write_all(&lines, paper(is_journal)))?;
    // A second office in one process (as the demonstration's tests have) goes on with the first one's.
    let _ = QUEUE.set(queue);
    Ok(())
}

/// Waits until everything said so far is written, but no longer than that.
pub fn flush(patience: Duration) {
    let deadline = Instant::now() + patience;
    let wanted = QUEUED.load(Ordering::Acquire);
    while WRITTEN.load(Ordering::Acquire) < wanted && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Lines that could not be written.
#[must_use]
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

#[derive(Debug)]
enum Paper {
    Stderr,
    Journal(Journald),
}

fn paper(is_journal: bool) -> Paper {
    match is_journal {
        true => Paper::Journal(Journald::default()),
        false => Paper::Stderr,
    }
}

impl Paper {
    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Paper::Stderr => io::stderr().write_all(line),
            Paper::Journal(journal) => journal.send(line),
        }
    }
}

/// What the logger writes with: each write is one line, or one entry.
#[derive(Debug)]
struct Pen {
    paper: Mutex<Paper>,
}

impl Write for Pen {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let done = match QUEUE.get() {
            None => self.paper.lock().put(line).is_ok(),
            Some(queue) => {
                let queued = queue.try_send(line.to_vec()).is_ok();
                QUEUED.fetch_add(u64::from(queued), Ordering::AcqRel);
                queued
            }
        };
        if !done {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        // A log that cannot be written is no error for whoever has something to say.
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(lines: &Receiver<Vec<u8>>, mut paper: Paper) {
    for line in lines {
        if paper.put(&line).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        WRITTEN.fetch_add(1, Ordering::AcqRel);
    }
}
