//! Thousands of closes and resets at random moments, many of them while bytes wait in a pipe: what a stream delivers
//! is its own words in order, whole if it ended by FIN, a prefix if it was reset; nothing is left behind.
//!
//! Every word of a stream carries session, direction and sequence. Both ends derive the plan of a session from its
//! number, so that they need not talk about it.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use support::backends::Backend;
use support::pairs::Who;
use support::ringway::{Front, Ringway, single};
use support::wait::{Dice, seconds, until};
use support::{alone, net, process};

const CUTS: u64 = 5_200;
const WHOLE: u64 = 300;
const AT_ONCE: usize = 8;
const WARM_UP: u64 = 150;
const RECEIVE_BYTES: usize = 32 * 1024;
const TICK: Duration = Duration::from_millis(4);
/// Nothing moves any more when nothing has moved for so long.
const QUIET: Duration = Duration::from_millis(12);
/// Streams stalled at once: with two workers each has more pipes in use than it keeps.
const STALLED: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Both streams end by FIN after their last word.
    Whole,
    /// The cutting side closes with RST.
    Reset,
    /// The cutting side closes its socket as it is.
    Close,
}

/// What happens in a session; both ends know it from the session's number.
#[derive(Clone, Copy, Debug)]
struct Plan {
    session: u64,
    ending: Ending,
    cutter: Who,
    /// The cut comes when the cutter has seen so many bytes (sent and received together), or when nothing moves.
    cut_after: u64,
    /// Words of the client's and of the backend's stream.
    words: [u64; 2],
    /// Bytes after which the client, the backend stops reading until the cut.
    stall_after: [u64; 2],
    /// How long a stalled reader waits around the cut before it goes on, and the cutter before it cuts.
    delay: Duration,
}

fn plan(session: u64, cut: bool) -> Plan {
    let mut dice = Dice(session.wrapping_mul(77));
    let ending = match (cut, dice.chance(75)) {
        (false, _) => Ending::Whole,
        (true, true) => Ending::Reset,
        (true, false) => Ending::Close,
    };
    let mut words = [0, 0];
    let mut stall_after = [u64::MAX; 2];
    let streaming = dice.below(3);
    for side in 0..2 {
        // One direction, the other, or both.
        if streaming == 2 || streaming == side {
            let side = side as usize;
            words[side] = 40_000 + dice.below(300_000);
            if cut && dice.chance(75) {
                // The reader of this stream is the other side.
                words[side] = 1_000_000;
                stall_after[1 - side] = 200_000 + dice.below(600_000);
            }
        }
    }
    let bytes = (words[0] + words[1]) * 8;
    // Mostly by whoever does not read: a pipe is full of what it has not taken.
    let cutter = match stall_after.map(|bytes| bytes < u64::MAX) {
        [true, false] if dice.chance(70) => Who::Client,
        [false, true] if dice.chance(70) => Who::Backend,
        _ if dice.chance(50) => Who::Client,
        _ => Who::Backend,
    };
    Plan {
        session,
        ending,
        cutter,
        cut_after: dice.below(bytes.min(3_000_000)),
        words,
        stall_after,
        delay: Duration::from_micros(dice.below(3_000)),
    }
}

fn stamp(session: u64, from: Who, sequence: u64) -> u64 {
    session << 32 | (from as u64) << 31 | sequence
}

/// How one side saw its session.
#[derive(Clone, Copy, Debug, Default)]
struct Report {
    sent: u64,
    /// The writing half was ended by FIN (after `sent` bytes), not broken.
    fin_sent: bool,
    received: u64,
    fin_received: bool,
    /// A reset was seen, by reader or writer.
    reset_seen: bool,
}

/// What both sides of a session know of each other, so that no moment is missed because the machine is busy.
#[derive(Default)]
struct Common {
    /// Bytes that anybody sent or received.
    moved: AtomicU64,
    /// The cutter has made up its mind.
    cut: AtomicBool,
}

/// What reader and writer of one side share.
struct Progress {
    common: Arc<Common>,
    /// The same of this side alone.
    moved: AtomicU64,
    stalled: AtomicBool,
    cut: AtomicBool,
    reset_seen: AtomicBool,
    reader_done: AtomicBool,
    writer_done: AtomicBool,
}

impl Progress {
    fn of(common: Arc<Common>) -> Progress {
        Progress {
            common,
            moved: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            reset_seen: AtomicBool::new(false),
            reader_done: AtomicBool::new(false),
            writer_done: AtomicBool::new(false),
        }
    }

    fn note(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::SeqCst);
        self.common.moved.fetch_add(bytes as u64, Ordering::SeqCst);
    }
}

fn run_side(stream: &TcpStream, plan: Plan, own: Who, common: Arc<Common>) -> Report {
    stream.set_read_timeout(Some(TICK)).expect("a time limit");
    stream.set_write_timeout(Some(TICK)).expect("a time limit");
    let progress = Progress::of(common);
    let mut report = Report::default();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let result = write_side(stream, plan, own, &progress);
            progress.writer_done.store(true, Ordering::SeqCst);
            result
        });
        let cutter = plan.ending != Ending::Whole && plan.cutter == own;
        let watcher = cutter.then(|| scope.spawn(|| wait_to_cut(plan, own, &progress)));
        let (received, fin) = read_side(stream, plan, own, &progress);
        progress.reader_done.store(true, Ordering::SeqCst);
        (report.received, report.fin_received) = (received, fin);
        (report.sent, report.fin_sent) = writer.join().expect("the writer");
        if let Some(watcher) = watcher {
            watcher.join().expect("the watcher");
        }
    });
    report.reset_seen = progress.reset_seen.load(Ordering::SeqCst);
    if plan.cutter == own && plan.ending == Ending::Reset {
        net::will_reset(stream);
    }
    // A plain close sends FIN behind the last word, if nothing unread turns it into a reset.
    report.fin_sent |= plan.cutter == own && plan.ending == Ending::Close && !report.reset_seen;
    report
}

/// Returns when it is time to cut: enough was moved, or nothing moves any more at either end, and this side reads no more
/// if that is the plan.
fn wait_to_cut(plan: Plan, own: Who, progress: &Progress) {
    let reads_on = plan.stall_after[own as usize] == u64::MAX;
    let mut last = (0, Instant::now());
    loop {
        let moved = progress.moved.load(Ordering::SeqCst);
        let of_both = progress.common.moved.load(Ordering::SeqCst);
        let waits = reads_on || progress.stalled.load(Ordering::SeqCst);
        if of_both != last.0 || !waits {
            last = (of_both, Instant::now());
        }
        let done = progress.reader_done.load(Ordering::SeqCst)
            && progress.writer_done.load(Ordering::SeqCst);
        let stalls = plan.stall_after != [u64::MAX; 2];
        let enough = !stalls && moved >= plan.cut_after;
        if done || enough || last.1.elapsed() > QUIET {
            thread::sleep(plan.delay);
            progress.common.cut.store(true, Ordering::SeqCst);
            progress.cut.store(true, Ordering::SeqCst);
            return;
        }
        thread::sleep(Duration::from_micros(300));
    }
}

fn write_side(mut stream: &TcpStream, plan: Plan, own: Who, progress: &Progress) -> (u64, bool) {
    let total = plan.words[own as usize] * 8;
    let mut buffer = vec![0_u8; 64 * 1024];
    let mut sent = 0;
    while sent < total {
        if progress.cut.load(Ordering::SeqCst) || progress.reset_seen.load(Ordering::SeqCst) {
            return (sent, false);
        }
        let n = (buffer.len() as u64 - sent % 8).min(total - sent) as usize;
        let first = sent / 8;
        let skip = (sent % 8) as usize;
        for (index, word) in (first..).zip(buffer.chunks_exact_mut(8)) {
            word.copy_from_slice(&stamp(plan.session, own, index).to_le_bytes());
        }
        match stream.write(&buffer[skip..(skip + n).min(64 * 1024)]) {
            Ok(written) => {
                sent += written as u64;
                progress.note(written);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                expect_broken(&error, plan);
                progress.reset_seen.store(true, Ordering::SeqCst);
                return (sent, false);
            }
        }
    }
    if plan.ending == Ending::Whole {
        stream.shutdown(Shutdown::Write).expect("FIN");
        return (sent, true);
    }
    (sent, false)
}

/// A session that is cut may break by reset; one that is not may not.
fn expect_broken(error: &io::Error, plan: Plan) {
    let broken = matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    );
    assert!(
        broken && plan.ending != Ending::Whole,
        "{error} in {plan:?}"
    );
}

fn read_side(mut stream: &TcpStream, plan: Plan, own: Who, progress: &Progress) -> (u64, bool) {
    let from = if own == Who::Client {
        Who::Backend
    } else {
        Who::Client
    };
    let cutter = plan.cutter == own;
    let mut buffer = vec![0_u8; 64 * 1024];
    let mut received = 0;
    let mut held = 0;
    let mut cut_since = None;
    let end = Instant::now() + seconds(60);
    loop {
        if cutter && progress.cut.load(Ordering::SeqCst) {
            return (received, false);
        }
        if received >= plan.stall_after[own as usize] {
            progress.stalled.store(true, Ordering::SeqCst);
            // The one that does not cut reads on around the cut: what came before it must still be right.
            let is_cut = progress.common.cut.load(Ordering::SeqCst);
            let since = is_cut.then(|| *cut_since.get_or_insert_with(Instant::now));
            if cutter || since.is_none_or(|since| since.elapsed() < TICK + plan.delay) {
                assert!(Instant::now() < end, "never cut: {plan:?}");
                thread::sleep(Duration::from_micros(500));
                continue;
            }
        }
        assert!(
            Instant::now() < end,
            "stuck after {received} bytes: {plan:?}"
        );
        match stream.read(&mut buffer[held..]) {
            Ok(0) => return (received, true),
            Ok(n) => {
                let filled = held + n;
                check_words(
                    &buffer[..filled],
                    plan.session,
                    from,
                    (received - held as u64) / 8,
                );
                received += n as u64;
                held = filled % 8;
                buffer.copy_within(filled - held..filled, 0);
                progress.note(n);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if cutter && progress.cut.load(Ordering::SeqCst) {
                    return (received, false);
                }
            }
            Err(error) => {
                expect_broken(&error, plan);
                progress.reset_seen.store(true, Ordering::SeqCst);
                return (received, false);
            }
        }
    }
}

fn check_words(bytes: &[u8], session: u64, from: Who, first: u64) {
    for (index, word) in (first..).zip(bytes.chunks_exact(8)) {
        let found = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        let wanted = stamp(session, from, index);
        assert!(
            found == wanted,
            "session {session} from {from:?}: word {index} is of session {}, from {}, word {}",
            found >> 32,
            found >> 31 & 1,
            found & 0x7fff_ffff
        );
    }
}

/// Holds what a sender did against what the receiver saw.
fn compare(plan: Plan, sender: &Report, receiver: &Report) {
    let fin = receiver.fin_received && !receiver.reset_seen;
    let context = || format!("{plan:?}\nsender {sender:?}\nreceiver {receiver:?}");
    assert!(
        receiver.received <= sender.sent,
        "more than was sent: {}",
        context()
    );
    if fin {
        assert!(
            sender.fin_sent,
            "a cut stream ended as a whole one: {}",
            context()
        );
        assert_eq!(
            receiver.received,
            sender.sent,
            "FIN, but not whole: {}",
            context()
        );
    }
    if plan.ending == Ending::Whole {
        assert!(fin, "no clean end: {}", context());
    }
}

type Desk = Arc<Mutex<HashMap<u64, (Sender<Report>, Arc<Common>)>>>;

fn backend(desk: Desk) -> Backend {
    let listener = net::listen_with(net::free_address(), RECEIVE_BYTES).expect("listen");
    Backend::serve_on(listener, move |mut stream| {
        let mut header = [0; 8];
        stream.read_exact(&mut header)?;
        let header = u64::from_le_bytes(header);
        let plan = plan(header >> 1, header & 1 == 1);
        let entry = desk.lock().unwrap().remove(&plan.session);
        if let Some((sender, common)) = entry {
            let _ = sender.send(run_side(stream, plan, Who::Backend, common));
        }
        Ok(())
    })
}

fn one_session(address: SocketAddr, desk: &Desk, session: u64, cut: bool) {
    let plan = plan(session, cut);
    let (sender, reports) = mpsc::channel();
    let common = Arc::new(Common::default());
    let entry = (sender, Arc::clone(&common));
    desk.lock().unwrap().insert(session, entry);
    let mut stream = net::connect_with(None, address, RECEIVE_BYTES).expect("connect");
    let header = session << 1 | u64::from(cut);
    stream.write_all(&header.to_le_bytes()).expect("the header");
    let ours = run_side(&stream, plan, Who::Client, common);
    drop(stream);
    // Without a report: the backend's thread panicked, or it never learned of the session's end.
    let theirs = reports
        .recv_timeout(seconds(60))
        .unwrap_or_else(|error| panic!("no report of the backend ({error}): {plan:?}, {ours:?}"));
    compare(plan, &ours, &theirs);
    compare(plan, &theirs, &ours);
}

fn many(
    address: SocketAddr,
    desk: &Desk,
    sessions: std::ops::Range<u64>,
    cut: impl Fn(u64) -> bool + Sync,
) {
    let next = AtomicU64::new(sessions.start);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let session = next.fetch_add(1, Ordering::SeqCst);
                    if session >= sessions.end {
                        return;
                    }
                    one_session(address, desk, session, cut(session));
                }
            });
        }
    });
}

/// Streams behind a gate: nobody reads them while it is held shut.
struct Gate {
    shut: Arc<RwLock<()>>,
    backend: Backend,
    address: SocketAddr,
}

impl Gate {
    fn new() -> Gate {
        let shut = Arc::new(RwLock::new(()));
        let listener = net::listen_with(net::free_address(), RECEIVE_BYTES).expect("listen");
        let gate = Arc::clone(&shut);
        let backend = Backend::serve_on(listener, move |mut stream| {
            drop(gate.read().unwrap());
            io::copy(&mut stream, &mut io::sink()).map(drop)
        });
        let address = net::free_address();
        Gate {
            shut,
            backend,
            address,
        }
    }

    /// A listener of its own.
    fn lines(&self) -> String {
        single(self.address, self.backend.address).replace("\"main\"", "\"gate\"")
    }

    /// Stalls so many streams at once that each worker needs more pipes than it keeps, and lets them end. Thereafter each
    /// keeps as many as it may, whatever was before; so what is open can be compared, to the last pipe.
    fn fill_stock(&self, ringway: &Ringway) {
        let shut = self.shut.write().unwrap();
        let open = |_| {
            let stream = net::connect(self.address);
            let socket = socket2::SockRef::from(&stream);
            socket
                .set_send_buffer_size(RECEIVE_BYTES)
                .expect("SO_SNDBUF");
            stream.set_nonblocking(true).expect("non-blocking");
            stream
        };
        let streams: Vec<TcpStream> = (0..STALLED).map(open).collect();
        let piece = vec![7; 64 * 1024];
        until(seconds(60), "each stream has a pipe", || {
            for mut stream in &streams {
                let _ = stream.write(&piece);
            }
            ringway.metric("ringway_pipes_open") >= STALLED as f64
        });
        drop(shut);
        for mut stream in &streams {
            stream.set_nonblocking(false).expect("blocking");
            stream.shutdown(Shutdown::Write).expect("FIN");
            assert_eq!(stream.read(&mut [0; 1]).expect("a clean end"), 0);
        }
        ringway.wait_empty();
    }
}

#[test]
fn five_thousand_cuts_leave_nothing_behind_and_mix_nothing() {
    let _alone = alone();
    let desk = Desk::default();
    let backend = backend(Arc::clone(&desk));
    let gate = Gate::new();
    let front = Front::with(backend.address, |setup| {
        setup.workers(2).also(&gate.lines())
    });
    many(front.address, &desk, 1..WARM_UP, |_| true);
    let before = front.ringway().map(|ringway| {
        ringway.wait_empty();
        gate.fill_stock(ringway);
        let cuts = ringway.metric("ringway_pipe_cuts_total");
        (process::settled_descriptors(ringway.pid()), cuts)
    });

    let end = WARM_UP + CUTS + WHOLE;
    let each = (CUTS + WHOLE) / WHOLE;
    many(front.address, &desk, WARM_UP..end, |session| {
        session % each != 0
    });

    let (Some(ringway), Some((descriptors, cuts))) = (front.ringway(), before) else {
        return;
    };
    ringway.wait_empty();
    let metrics = ringway.metrics();
    let full = metrics.sum("ringway_pipe_cuts_total", &[]) - cuts;
    let share = full / CUTS as f64;
    assert!(
        share >= 0.3,
        "only {:.1} % of the cuts hit a pipe with bytes in it",
        share * 100.0
    );
    gate.fill_stock(ringway);
    // What the last sessions held may still be on its way out.
    let end = Instant::now() + seconds(10);
    let mut after = process::settled_descriptors(ringway.pid());
    while after.all > descriptors.all && Instant::now() < end {
        after = process::settled_descriptors(ringway.pid());
    }
    eprintln!(
        "{CUTS} cuts, {full} of them in a pipe with bytes ({:.0} %); open before: {descriptors:?}, after: {after:?}",
        share * 100.0
    );
    assert_eq!(after, descriptors, "what is open before and after");
}
