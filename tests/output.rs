//! What commands print: whole to a reader who stays, quietly less to one who leaves; and a plan in full that is a file.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use support::ringway::{PROGRAM, run};
use support::wait::seconds;
use support::{net, process};

/// Starts the program with a stdout or stderr that nobody reads; what it says on the other one, and its exit status.
fn unread(arguments: &[&str], stdout: bool) -> (String, Option<i32>) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::null());
    match stdout {
        true => command.stdout(writer).stderr(Stdio::piped()),
        false => command.stderr(writer).stdout(Stdio::piped()),
    };
    let mut child = command.spawn().expect("start ringway");
    let status = process::wait_exit(&mut child, seconds(20));
    let Some(status) = status else {
        process::end(&mut child, "KILL");
        panic!("{arguments:?} goes on for nobody");
    };
    let mut said = String::new();
    if let Some(mut other) = child.stderr.take() {
        other.read_to_string(&mut said).expect("stderr");
    }
    if let Some(mut other) = child.stdout.take() {
        other.read_to_string(&mut said).expect("stdout");
    }
    (said, status.code())
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    let here = net::free_address();
    let admin = net::free_address();
    let text = format!(
        "[admin]\nbind = \"{admin}\"\nsocket = \"{0}/admin.sock\"\n[[listener]]\nname = \"l\"\nbind = \"{here}\"\n\
         pool = \"p\"\n[[pool]]\nname = \"p\"\n[[pool.backend]]\naddress = \"{here}\"\n",
        folder.path().display()
    );
    fs::write(&file, text).expect("a configuration");
    let file = file.to_string_lossy();
    let fine: [&[&str]; 5] = [
        &["version"],
        &["check", "-c", &file],
        &["check", "--defaults", "-c", &file],
        &["demo"],
        &["--help"],
    ];
    for arguments in fine {
        let (said, status) = unread(arguments, true);
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
        assert_eq!(status, Some(0), "{arguments:?}: {said}");
    }
    // Nor is one of what went wrong: the exit status tells.
    let wrong: [(&[&str], i32); 3] = [
        (&["check", "-c", "/nowhere/config.toml"], 2),
        (&["run", "-c", "/nowhere/config.toml"], 2),
        (
            &["explain", "--listener", "l", "--client", "::1", "-c", &file],
            1,
        ),
    ];
    for (arguments, expected) in wrong {
        assert_eq!(unread(arguments, false).1, Some(expected), "{arguments:?}");
    }
}

/// Somebody who reads one line and leaves, as `head -1` does.
#[test]
fn a_demonstration_ends_with_its_audience() {
    let mut child = Command::new(PROGRAM)
        .arg("demo")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start the demonstration");
    let mut first = String::new();
    let mut reader = BufReader::new(child.stdout.take().expect("a pipe"));
    reader.read_line(&mut first).expect("the first line");
    assert!(first.starts_with("ringway demo"), "{first}");
    drop(reader);
    let status = process::wait_exit(&mut child, seconds(20));
    if status.is_none() {
        process::end(&mut child, "KILL");
    }
    assert_eq!(status.and_then(|status| status.code()), Some(0));
}

/// `check --defaults > full.toml` is a file that says the same.
#[test]
fn the_plan_in_full_is_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");
    let file = folder.path().join("full.toml");
    let file = file.to_string_lossy();
    let full = |config: &str| {
        let output = run(&["check", "--defaults", "-c", config]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let first = full(example);
    assert!(first.starts_with("# workers "), "{first}");
    assert!(
        first.contains("\n[pool.health]\nkind = \"tcp\"\n"),
        "{first}"
    );
    fs::write(&*file, &first).expect("write it");
    assert_eq!(of_the_file(&full(&file)), of_the_file(&first));
}

/// Without the words before it, in which the budget depends on the moment.
fn of_the_file(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| format!("{line}\n")).collect()
}
