//! The access log: each session a line that tells its end, as text and JSON, through rotations; and what a log that cannot
//! be written costs: its own lines, which are counted, and nobody's session.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{PipeReader, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use support::backends::{Backend, read_line};
use support::greeted::{expect_reset, open, say};
use support::ringway::{Ringway, Setup, listener, pool_with, single};
use support::servers::program;
use support::wait::{seconds, until, within};
use support::{alone, net};

const KEYS: [&str; 15] = [
    "time",
    "id",
    "listener",
    "client",
    "pool",
    "backend",
    "attempts",
    "wait_ms",
    "connect_ms",
    "duration_ms",
    "bytes_in",
    "bytes_out",
    "end",
    "rtt_us",
    "retrans",
];

/// One session of each kind of end; returns the end codes in order.
fn known_ends(address: SocketAddr) -> Vec<&'static str> {
    let (mut stream, _) = open(address);
    say(&mut stream, "12345");
    stream.shutdown(Shutdown::Write).expect("half-close");
    stream.read_to_end(&mut Vec::new()).expect("the end");
    drop(stream);

    let (stream, _) = open(address);
    net::reset(stream);

    let (mut stream, _) = open(address);
    stream.write_all(b"close\n").expect("send");
    stream
        .read_to_end(&mut Vec::new())
        .expect("the backend's end");
    drop(stream);

    let (mut stream, _) = open(address);
    stream.write_all(b"reset\n").expect("send");
    expect_reset(stream);
    vec!["client-fin", "client-reset", "backend-fin", "backend-reset"]
}

/// Greets, then echoes lines; obeys `close` and `reset`.
fn obedient() -> Backend {
    Backend::serve(|mut stream| {
        stream.write_all(b"a\n")?;
        loop {
            match read_line(stream)?.as_str() {
                "close" => return Ok(()),
                "reset" => {
                    net::will_reset(stream);
                    return Ok(());
                }
                line => writeln!(stream, "{line}")?,
            }
        }
    })
}

/// The finished sessions' fields, once `count` lines are there.
fn log_lines(ringway: &Ringway, count: usize, read: impl Fn(&Ringway) -> String) -> Vec<String> {
    within(seconds(5), "the lines of the access log", || {
        let text = read(ringway);
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.contains("bytes_in"))
            .collect();
        assert!(lines.len() <= count, "too many lines: {text}");
        (lines.len() == count && text.ends_with('\n'))
            .then(|| lines.into_iter().map(String::from).collect())
    })
}

fn check_fields(fields: &BTreeMap<String, String>, ends: &mut Vec<&str>) {
    for key in KEYS {
        assert!(fields.contains_key(key), "no {key} in {fields:?}");
    }
    assert_eq!(fields["listener"], "main");
    assert_eq!(fields["pool"], "main");
    assert_eq!(fields["backend"], "only");
    assert_eq!(fields["attempts"], "1");
    assert!(fields["client"].starts_with("127."), "{fields:?}");
    let decimals = fields["duration_ms"]
        .split_once('.')
        .expect("a decimal point")
        .1;
    assert_eq!(decimals.len(), 3, "{fields:?}");
    let at = ends.iter().position(|end| *end == fields["end"]);
    let end = ends.remove(at.unwrap_or_else(|| panic!("unexpected end in {fields:?}")));
    let bytes = (fields["bytes_in"].as_str(), fields["bytes_out"].as_str());
    let expected = match end {
        "client-fin" => ("6", "8"),
        "client-reset" => ("0", "2"),
        _ => ("6", "2"),
    };
    assert_eq!(bytes, expected, "{fields:?}");
}

#[test]
fn the_access_log_as_text_survives_rotation() {
    let backend = obedient();
    let address = net::free_address();
    let folder = tempfile::tempdir().expect("a folder");
    let (file, rotated) = (
        folder.path().join("access.log"),
        folder.path().join("old.log"),
    );
    let ringway = Setup::new(single(address, backend.address))
        .global(format!(
            "workers = 1\npin = \"off\"\nshutdown_grace = \"2s\"\naccess_log = \"{}\"\n",
            file.display()
        ))
        .start();
    for round in 0..2 {
        let mut ends = known_ends(address);
        let lines = log_lines(&ringway, 4, |_| {
            fs::read_to_string(&file).unwrap_or_default()
        });
        for line in lines {
            let fields = line.split(' ').map(|field| {
                let (key, value) = field.split_once('=').unwrap_or_else(|| panic!("{line}"));
                (key.to_string(), value.to_string())
            });
            check_fields(&fields.collect(), &mut ends);
        }
        assert!(ends.is_empty(), "not seen: {ends:?}");
        if round == 0 {
            fs::rename(&file, &rotated).expect("rotate");
            ringway.signal("USR1");
            until(seconds(5), "a new file is there", || file.exists());
        }
    }
}

#[test]
fn the_access_log_as_json_on_stdout() {
    let backend = obedient();
    let address = net::free_address();
    let ringway = Setup::new(single(address, backend.address))
        .global(
            "workers = 2\npin = \"off\"\nshutdown_grace = \"2s\"\n\
             access_log = \"stdout\"\naccess_log_format = \"json\"\n",
        )
        .start();
    let mut ends = known_ends(address);
    for line in log_lines(&ringway, 4, Ringway::stdout) {
        let object: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(
            object["bytes_in"].is_number() && object["end"].is_string(),
            "{line}"
        );
        let fields = object.into_iter().map(|(key, value)| match value {
            serde_json::Value::String(text) => (key, text),
            // Numbers as they stand in the line: three decimals may not get lost.
            other if key.ends_with("_ms") => {
                let from = line.find(&format!("\"{key}\":")).expect("the key") + key.len() + 3;
                let rest = &line[from..];
                let end = rest.find([',', '}']).expect("the value's end");
                let _ = other;
                (key, rest[..end].to_string())
            }
            other => (key, other.to_string()),
        });
        check_fields(&fields.collect(), &mut ends);
    }
    assert!(ends.is_empty(), "not seen: {ends:?}");
}

/// The log's own trouble never stops traffic.
#[test]
fn a_log_that_cannot_be_written_does_not_stop_traffic() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let ringway = Setup::new(single(address, backend.address))
        .global("workers = 1\npin = \"off\"\nshutdown_grace = \"2s\"\naccess_log = \"/dev/full\"\n")
        .start();
    for _ in 0..200 {
        open(address);
    }
    until(seconds(5), "lost lines are counted", || {
        ringway.metric("ringway_access_log_lines_lost_total") >= 1.0
    });
}

/// A session that lasts is seen before its end, where that is asked for.
#[test]
fn long_sessions_are_logged_while_they_last() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let ringway = Setup::new(single(address, backend.address))
        .global(
            "workers = 1\npin = \"off\"\nshutdown_grace = \"2s\"\naccess_log = \"stdout\"\nlog_interval = \"1s\"\n",
        )
        .start();
    let began = Instant::now();
    let (mut stream, _) = open(address);
    say(&mut stream, "hello");
    let events = || -> Vec<String> {
        let text = ringway.stdout();
        let lines = text.lines().filter(|line| line.contains(" event="));
        lines.map(str::to_owned).collect()
    };
    let progress = |events: &[String]| events.iter().filter(|l| l.contains("=progress ")).count();
    until(seconds(10), "two reports of progress", || {
        progress(&events()) >= 2
    });
    assert!(began.elapsed() >= seconds(2), "sooner than asked for");
    stream.shutdown(Shutdown::Write).expect("half-close");
    stream.read_to_end(&mut Vec::new()).expect("the end");
    until(seconds(5), "its end", || {
        events().iter().any(|l| l.contains(" event=end "))
    });
    let events = events();
    let id = |line: &str| {
        line.split(' ')
            .find(|f| f.starts_with("id="))
            .map(str::to_owned)
    };
    assert!(
        events.iter().all(|line| id(line) == id(&events[0])),
        "{events:?}"
    );
    assert!(events[0].contains(" event=start ") && events[0].contains(" backend=- "));
    assert!(events[1].contains(" event=connect ") && events[1].contains(" backend=only "));
    assert!(
        events[2].contains(" bytes_in=6 bytes_out=8 end=- "),
        "{events:?}"
    );
    assert!(
        events
            .last()
            .is_some_and(|line| line.contains(" end=client-fin "))
    );
}

/// A pipe that nobody reads, as small as they come.
fn stalled() -> (PipeReader, fs::File) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    // SAFETY: F_SETPIPE_SZ takes one integer and touches no memory of this process.
    let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    assert!(size > 0);
    (reader, fs::File::from(OwnedFd::from(writer)))
}

/// Readers of standard output and standard error that stall hold up nobody, and what they miss is counted.
#[test]
fn a_log_that_nobody_reads_does_not_stop_anything() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let ((mut out, stdout), (_err, stderr)) = (stalled(), stalled());
    let mut ringway = Setup::new(single(address, backend.address))
        .global("workers = 1\npin = \"off\"\nshutdown_grace = \"2s\"\naccess_log = \"stdout\"\n")
        .stdout(stdout)
        .stderr(stderr)
        .start();
    // More lines than the journal of a worker, the pipe and the scribe's hands hold.
    let enough = 12_000;
    let clients = (0..4).map(|_| {
        thread::spawn(move || {
            for _ in 0..enough / 4 {
                net::reset(open(address).0);
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    clients
        .into_iter()
        .for_each(|client| client.join().expect("served"));
    until(seconds(20), "lost lines are counted", || {
        ringway.metric("ringway_access_log_lines_lost_total") >= 1.0
    });
    // Each change is a line of the process's own log: more than wait for a reader.
    let names: Vec<String> = (0..1000).map(|n| format!("b{n}")).collect();
    for weight in ["weight = 1", "weight = 2"].into_iter().cycle().take(6) {
        let members = names
            .iter()
            .map(|name| (name.as_str(), backend.address.to_string(), weight));
        let unchecked = "[pool.health]\nkind = \"none\"\n";
        let many = pool_with("main", "", unchecked, &members.collect::<Vec<_>>());
        ringway.rewrite(listener("main", address, "main") + &many);
        assert!(ringway.reload());
    }
    assert!(ringway.metric("ringway_log_lines_lost_total") >= 1.0);
    open(address);
    // Somebody reads again: each record is there, or is one of those that are counted.
    let reading = thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).expect("to the end");
        text.lines()
            .filter(|line| line.contains("bytes_in"))
            .count()
    });
    let counted = |name: &str| ringway.metric(&format!("ringway_access_log_lines{name}_total"));
    let all = f64::from(enough) + 1.0;
    until(seconds(20), "each is written or lost", || {
        counted("") + counted("_lost") >= all
    });
    assert_eq!(counted("") + counted("_lost"), all);
    let written = counted("");
    ringway.signal("TERM");
    assert_eq!(ringway.wait_exit(seconds(10)).code(), Some(0));
    drop(ringway);
    assert_eq!(reading.join().unwrap() as f64, written);
}

/// A file system of its own, with room for so little.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, size: &str) -> Disk {
        fs::create_dir(at).unwrap();
        let done = Command::new(program("mount", "mount"))
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(at)
            .status();
        assert!(done.unwrap().success(), "mount: run the tests as root");
        Disk(at.to_owned())
    }

    /// Lines of a file, all of them whole; one that was cut off stands for none.
    fn lines(&self, name: &str) -> (usize, usize) {
        let text = fs::read_to_string(self.0.join(name)).unwrap();
        let whole = |line: &&str| {
            line.starts_with("time=")
                && line.contains(" retrans=")
                && line.matches("time=").count() == 1
        };
        let all = text.lines().filter(|line| !line.is_empty()).count();
        (text.lines().filter(whole).count(), all)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()), "umount");
    }
}

/// Nobody is kept from anything, and each line is either in the file or counted as lost.
#[test]
fn a_full_disk_costs_only_counted_lines() {
    let _alone = alone();
    let backend = Backend::named("a");
    let address = net::free_address();
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::mount(&folder.path().join("disk"), "128k");
    let (file, ballast) = (disk.0.join("access.log"), disk.0.join("ballast"));
    fs::write(&ballast, [0; 32 * 1024]).unwrap();
    let ringway = Setup::new(single(address, backend.address))
        .global(format!(
            "workers = 1\npin = \"off\"\nshutdown_grace = \"2s\"\naccess_log = \"{}\"\n",
            file.display()
        ))
        .start();
    let counted = |name: &str| ringway.metric(&format!("ringway_access_log_lines{name}_total"));
    let sessions = |count: u32| {
        let began = Instant::now();
        for _ in 0..count {
            let (mut stream, _) = open(address);
            say(&mut stream, "served");
            net::reset(stream);
        }
        began.elapsed()
    };
    let all = 1_500;
    let took = sessions(all);
    assert!(took < seconds(60), "{took:?}");
    until(seconds(10), "every line is written or lost", || {
        counted("") + counted("_lost") >= f64::from(all)
    });
    assert_eq!(counted("") + counted("_lost"), f64::from(all));
    assert!(counted("_lost") > 100.0, "the disk was not full");
    let (whole, lines) = disk.lines("access.log");
    assert_eq!(counted(""), whole as f64, "what counts as written is there");
    assert!(lines <= whole + 1, "{lines} lines, {whole} of them whole");
    let log = ringway.stderr();
    let said = log
        .lines()
        .filter(|line| line.contains("cannot be written"));
    assert_eq!(said.count(), 1, "once a minute: {log}");

    // The operator makes room: what comes then begins a line of its own.
    fs::remove_file(&ballast).unwrap();
    let before = (counted(""), counted("_lost"));
    sessions(60);
    until(seconds(10), "they are in the log", || {
        counted("") + counted("_lost") >= f64::from(all + 60)
    });
    assert_eq!((counted(""), counted("_lost")), (before.0 + 60.0, before.1));
    let (whole, lines) = disk.lines("access.log");
    assert_eq!(counted(""), whole as f64);
    assert!(lines <= whole + 1, "{lines} lines, {whole} of them whole");

    // And once more, by a rotation.
    fs::remove_file(&file).unwrap();
    ringway.signal("USR1");
    until(seconds(5), "a new file is there", || file.exists());
    let before = counted("_lost");
    sessions(100);
    until(seconds(10), "they are in the log", || {
        disk.lines("access.log") == (100, 100)
    });
    assert_eq!(counted("_lost"), before);
}
