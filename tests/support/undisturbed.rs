//! Clients of an echo behind the balancer, steadily at work, who notice nothing of what goes on elsewhere: no byte is lost,
//! nobody is refused, and answers take about as long as before.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{net, pattern};

const PIECE: usize = 1000;
/// Sessions that stay; one more client comes anew for each question.
const STAYING: u64 = 2;
const ROUNDS_MIN: usize = 200;

/// How long questions took: of sessions that stay, and with connecting of those that come anew.
#[derive(Default)]
struct Taken {
    staying: Vec<Duration>,
    fresh: Vec<Duration>,
}

fn round(stream: &mut TcpStream, number: u64, at: u64) -> io::Result<()> {
    let mut piece = [0; PIECE];
    pattern::fill(number, at, &mut piece);
    stream.write_all(&piece)?;
    stream.read_exact(&mut piece)?;
    pattern::check(number, at, &piece).map_err(io::Error::other)
}

fn share(all: &mut [Duration], of_thousand: usize) -> Duration {
    all.sort();
    all[(all.len() - 1) * of_thousand / 1000]
}

/// Works until told to stop, and at least for some rounds.
fn work(address: SocketAddr, stop: &AtomicBool) -> Taken {
    let taken = Mutex::new(Taken::default());
    let pause = || thread::sleep(Duration::from_millis(1));
    thread::scope(|scope| {
        for number in 0..STAYING {
            let taken = &taken;
            scope.spawn(move || {
                let mut stream = net::connect(address);
                let (mut all, mut at) = (Vec::new(), 0);
                while !stop.load(Ordering::SeqCst) || all.len() < ROUNDS_MIN {
                    let began = Instant::now();
                    round(&mut stream, number, at).expect("its own bytes, whole");
                    all.push(began.elapsed());
                    at += PIECE as u64;
                    pause();
                }
                taken.lock().unwrap().staying.extend(all);
            });
        }
        scope.spawn(|| {
            let mut all = Vec::new();
            while !stop.load(Ordering::SeqCst) || all.len() < ROUNDS_MIN {
                let began = Instant::now();
                let mut stream = net::try_connect(address).expect("nobody is refused");
                round(&mut stream, 99, 0).expect("a new client's bytes");
                all.push(began.elapsed());
                pause();
            }
            taken.lock().unwrap().fresh.extend(all);
        });
    });
    taken.into_inner().unwrap()
}

/// Holds what clients see while something goes on against what they saw before it.
pub fn undisturbed<T>(address: SocketAddr, meanwhile: impl FnOnce() -> T) -> T {
    let mut quiet = work(address, &AtomicBool::new(true));
    let stop = AtomicBool::new(false);
    let (result, mut loud) = thread::scope(|scope| {
        let beside = scope.spawn(|| work(address, &stop));
        // What fails meanwhile is told first: the workers must not wait for ever.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        stop.store(true, Ordering::SeqCst);
        let loud = beside.join().expect("clients at work");
        (result, loud)
    });
    let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let pairs = [
        ("staying", &mut quiet.staying, &mut loud.staying),
        ("fresh", &mut quiet.fresh, &mut loud.fresh),
    ];
    for (who, quiet, loud) in pairs {
        let (before, now) = (share(quiet, 500), share(loud, 500));
        let (before_late, now_late) = (share(quiet, 990), share(loud, 990));
        println!(
            "{who}: median {before:?} -> {now:?}, p99 {before_late:?} -> {now_late:?} of {}",
            loud.len()
        );
        assert!(
            now < before * 3 + Duration::from_millis(1),
            "{who}: median {now:?}, {before:?} before"
        );
        assert!(
            now_late < before_late * 4 + Duration::from_millis(30),
            "{who}: p99 {now_late:?}, {before_late:?} before"
        );
    }
    result
}
