//! The walls between the rooms, and the laws of the house that the compiler does not know: who may name whom, where
//! `unsafe` may stand, how long files and functions may be, what the data plane must never do. Reads the sources as text
//! with comments and strings blanked. Each law is followed by a test that feeds it what it must catch.
//!
//! Code under `#[cfg(test)]` is held only to the laws on `unsafe`, headers and machine paths.

#[path = "tidy/house.rs"]
mod house;
#[path = "tidy/source.rs"]
mod source;

use house::{house, test_modules};
use source::{Source, functions, paths, places};

/// A room and the rooms it may name. Each names only rooms above it, so no two can depend on each other. A room behind
/// `door:` may be named for what its `mod.rs` offers (types, and a function `start`), not for its inner modules.
const ROOMS: &[(&str, &[&str])] = &[
    ("ids", &[]),
    ("wire", &["ids"]),
    ("config", &["ids"]),
    ("balance", &["ids"]),
    ("session", &["ids", "wire"]),
    ("sys", &["ids"]),
    ("uring", &["ids", "sys"]),
    ("handoff", &["ids", "balance", "sys"]),
    (
        "worker",
        &[
            "ids", "wire", "handoff", "balance", "session", "uring", "sys",
        ],
    ),
    ("prober", &["ids", "wire", "handoff", "sys"]),
    (
        "office",
        &[
            "ids",
            "config",
            "balance",
            "handoff",
            "sys",
            "door:worker",
            "door:prober",
        ],
    ),
    ("cli", &["ids", "config", "office"]),
];

/// What `lib.rs` and `main.rs` may name.
const ENTRANCE: &[&str] = &["cli", "config", "office"];

const UNSAFE_ROOMS: &[&str] = &["sys", "uring"];

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 60;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "util",
    "utils",
    "utility",
    "common",
    "helper",
    "helpers",
    "types",
    "misc",
    "shared_types",
];

const DATA_PLANE: &[&str] = &["session", "worker", "uring", "balance"];

/// They block, allocate, print, or hide who owns what.
const BANNED_IN_DATA_PLANE: &[&str] = &[
    "println!",
    "eprintln!",
    "print!",
    "eprint!",
    "dbg!",
    "format!",
    "log::",
    "Mutex",
    "RwLock",
    "Condvar",
    "Rc<",
    "RefCell",
    "Box<dyn",
    "HashMap",
    "BTreeMap",
    ".unwrap()",
    "todo!",
    "std::thread::sleep",
    "thread::sleep",
];

/// The study decides; it never sees what it decides about.
const BANNED_IN_SESSION: &[&str] = &[
    "libc",
    "OwnedFd",
    "BorrowedFd",
    "RawFd",
    "AsFd",
    "Instant",
    "SystemTime",
    "std::net",
    "std::io",
];

/// Places where a banned word is right all the same: file, word, why. An entry that is no longer needed fails.
const EXCEPTIONS: &[(&str, &str, &str)] = &[(
    "src/uring/probe.rs",
    "format!",
    "the probe runs once at start, before there is a client",
)];

/// Files over the limit that wait to be split: what they may have meanwhile. They may not grow, and an entry that is no
/// longer needed fails.
const TO_BE_SPLIT: &[(&str, usize)] = &[];

// ---------------------------------------------------------------------------------------------------------------------
// Law 1: who may name whom

fn is_door(path: &[String]) -> bool {
    let offered = |name: &String| name == "start" || name.starts_with(char::is_uppercase);
    path.get(1).is_some_and(offered)
}

fn imports_stay_in_their_row(source: &Source) -> Vec<String> {
    let (root, allowed) = match source.room() {
        None if source.path.starts_with("src/") => ("ringway::", ENTRANCE),
        None => return Vec::new(),
        Some(room) => match ROOMS.iter().find(|(name, _)| *name == room) {
            Some((_, allowed)) => ("crate::", *allowed),
            None => return vec![format!("{}: {room} is no room of the table", source.path)],
        },
    };
    let mut found = Vec::new();
    for at in ["crate::", root]
        .iter()
        .flat_map(|root| places(&source.product, root).map(|at| at + root.len()))
    {
        for path in paths(&source.product[at..]) {
            let room = path[0].as_str();
            let door = format!("door:{room}");
            let is_allowed = source.room() == Some(room)
                || allowed.contains(&room)
                || allowed.contains(&door.as_str()) && is_door(&path);
            // A macro or a constant at the root belongs to nobody.
            if !is_allowed && ROOMS.iter().any(|(name, _)| *name == room) {
                let path = path.join("::");
                found.push(source.finding(at, &format!("may not name {path}")));
            }
        }
    }
    found.sort();
    found.dedup();
    let climb = "super::".repeat(source.depth());
    if source.room().is_some() {
        let climbs = places(&source.product, &climb);
        found.extend(climbs.map(|at| source.finding(at, "climbs out of its room; say crate::")));
    }
    found
}

#[test]
fn imports_out_of_row_are_found() {
    let law = imports_stay_in_their_row;
    let catch = |path: &str, text: &str| !law(&Source::new(path, text)).is_empty();
    assert!(catch("src/session/mod.rs", "use crate::uring::Ring;"));
    assert!(catch(
        "src/worker/mod.rs",
        "fn f() { crate::config::load(); }"
    ));
    assert!(catch(
        "src/handoff/a.rs",
        "use crate::{ids::Side, config::Plan};"
    ));
    assert!(catch(
        "src/handoff/a.rs",
        "use crate::{\n    ids::{Side, Slot},\n    worker,\n};"
    ));
    assert!(catch("src/balance/a.rs", "use super::super::sys::pipe;"));
    assert!(catch("src/balance/mod.rs", "use super::sys::pipe;"));
    assert!(catch(
        "src/office/mod.rs",
        "use crate::worker::slots::Slots;"
    ));
    assert!(catch("src/office/mod.rs", "use crate::prober::rules;"));
    assert!(catch("src/lounge/mod.rs", ""));
    assert!(catch(
        "src/main.rs",
        "fn main() { ringway::worker::start(); }"
    ));
    assert!(catch("src/ids.rs", "use crate::sys;"));

    assert!(!catch(
        "src/session/mod.rs",
        "use crate::{ids::Side, wire};"
    ));
    assert!(!catch(
        "src/session/mod.rs",
        "// crate::uring is not for us\nconst A: &str = \"crate::uring\";"
    ));
    assert!(!catch(
        "src/session/mod.rs",
        "#[cfg(test)]\nmod tests { use crate::uring::Ring; }"
    ));
    assert!(!catch(
        "src/balance/a.rs",
        "use super::Draw; use crate::balance::Chooser;"
    ));
    assert!(!catch(
        "src/office/mod.rs",
        "use crate::worker::{start, WorkerRules}; use crate::prober::Prober;"
    ));
    assert!(!catch("src/main.rs", "fn main() { ringway::cli::run(); }"));
}

#[test]
fn the_table_has_no_knot() {
    for (i, (room, row)) in ROOMS.iter().enumerate() {
        for named in *row {
            let named = named.trim_start_matches("door:");
            let is_above = ROOMS[..i].iter().any(|(above, _)| *above == named);
            assert!(
                is_above,
                "{room} names {named}, which does not stand above it"
            );
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Law 2: unsafe in two rooms only

fn unsafe_stays_in_its_rooms(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let is_allowed = source
        .room()
        .is_some_and(|room| UNSAFE_ROOMS.contains(&room));
    if source.path.starts_with("src/") && !is_allowed {
        let blocks = places(&source.code, "unsafe");
        found.extend(blocks.map(|at| source.finding(at, "unsafe outside of sys and uring")));
    }
    if source.path == "src/lib.rs" {
        found.extend(rooms_are_locked(source));
    }
    found
}

/// `lib.rs` forbids unsafe code in each room but the two, where an inner attribute could not allow it again.
fn rooms_are_locked(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if !source.code.contains("#![deny(unsafe_code)]") {
        found.push(source.finding(0, "#![deny(unsafe_code)] is missing"));
    }
    let mut attributes = String::new();
    for line in source.code.lines().map(str::trim) {
        let declared = line.trim_start_matches("pub ").strip_prefix("mod ");
        if let Some(room) = declared.map(|rest| rest.trim_end_matches(';')) {
            let wanted = if UNSAFE_ROOMS.contains(&room) {
                "#[allow(unsafe_code)]"
            } else {
                "#[forbid(unsafe_code)]"
            };
            if !attributes.contains(wanted) {
                found.push(format!("{}: {room} lacks {wanted}", source.path));
            }
            attributes.clear();
        } else if line.starts_with("#[") {
            attributes.push_str(line);
        }
    }
    found
}

#[test]
fn unsafe_out_of_place_is_found() {
    let law = unsafe_stays_in_its_rooms;
    let catch = |path: &str, text: &str| !law(&Source::new(path, text)).is_empty();
    assert!(catch("src/worker/a.rs", "fn f() { unsafe { g() } }"));
    assert!(catch(
        "src/worker/a.rs",
        "#[cfg(test)]\nmod tests { unsafe fn g() {} }"
    ));
    assert!(catch("src/main.rs", "unsafe extern \"C\" { fn g(); }"));
    assert!(catch("src/lib.rs", "#[forbid(unsafe_code)]\npub mod ids;"));
    assert!(catch("src/lib.rs", "#![deny(unsafe_code)]\npub mod ids;"));
    assert!(catch(
        "src/lib.rs",
        "#![deny(unsafe_code)]\n#[allow(unsafe_code)]\npub mod ids;"
    ));
    let locked = "#![deny(unsafe_code)]\n#[forbid(unsafe_code)]\npub mod ids;\n#[allow(unsafe_code)]\nmod sys;";
    assert!(!catch("src/lib.rs", locked));
    assert!(!catch("src/uring/a.rs", "fn f() { unsafe { g() } }"));
    assert!(!catch(
        "src/worker/a.rs",
        "//! no unsafe here\nfn unsafe_sounding() {}"
    ));
}

// ---------------------------------------------------------------------------------------------------------------------
// Law 3: lengths

fn nothing_is_too_long(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") {
        return Vec::new();
    }
    let mut found = Vec::new();
    let lines = source.text.lines().count() - source.test_lines;
    let owed = TO_BE_SPLIT.iter().find(|(path, _)| *path == source.path);
    let most = owed.map_or(FILE_LINES_MAX, |(_, lines)| *lines);
    if lines > most {
        found.push(format!(
            "{}: {lines} lines without tests; at most {most}",
            source.path
        ));
    }
    for (at, name, lines) in functions(&source.product) {
        if lines > FUNCTION_LINES_MAX {
            let what = format!("fn {name} has {lines} lines; at most {FUNCTION_LINES_MAX}");
            found.push(source.finding(at, &what));
        }
    }
    found
}

#[test]
fn lengths_are_found() {
    let catch = |text: &str| !nothing_is_too_long(&Source::new("src/ids/a.rs", text)).is_empty();
    let function = |lines: usize| {
        format!(
            "fn f(a: [u8; 2]) -> u8 {{\n{}}}\n",
            "    g();\n".repeat(lines - 2)
        )
    };
    assert!(catch(&function(61)));
    assert!(catch(&format!(
        "impl A {{\n    // }}\n    {}}}",
        function(61)
    )));
    assert!(!catch(&function(60)));
    assert!(!catch(&format!(
        "fn short() {{}}\ntrait T {{ fn g(&self); }}\n{}",
        function(60)
    )));
    assert!(!catch(&format!(
        "#[cfg(test)]\nmod tests {{\n{}}}",
        function(300)
    )));
    assert!(catch(&"const A: u8 = 1;\n".repeat(601)));
    assert!(catch(&"// words\n".repeat(601)));
    assert!(!catch(&"const A: u8 = 1;\n".repeat(600)));
    let tested = format!(
        "{}#[cfg(test)]\nmod tests {{\n{}}}\n",
        "const A: u8 = 1;\n".repeat(600),
        "const B: u8 = 1;\n".repeat(90)
    );
    assert!(!catch(&tested));
}

// ---------------------------------------------------------------------------------------------------------------------
// Law 4: headers and names

fn files_say_what_they_are_for(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if !source.text.starts_with("//!") {
        found.push(format!("{}: does not open with //!", source.path));
    }
    let mut names: Vec<String> = source
        .path
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    for at in places(&source.code, "mod") {
        names.extend(paths(&source.code[at + 3..]).into_iter().flatten());
    }
    let empty = names
        .iter()
        .filter(|name| EMPTY_NAMES.contains(&name.as_str()));
    found.extend(empty.map(|name| format!("{}: {name} says nothing as a name", source.path)));
    found
}

#[test]
fn missing_headers_and_empty_names_are_found() {
    let law = files_say_what_they_are_for;
    let catch = |path: &str, text: &str| !law(&Source::new(path, text)).is_empty();
    assert!(catch("src/ids/a.rs", "use std::io;"));
    assert!(catch("src/ids/util.rs", "//! Things."));
    assert!(catch("src/helpers/mod.rs", "//! Things."));
    assert!(catch("src/ids/a.rs", "//! Things.\nmod common { }"));
    assert!(catch("src/ids/a.rs", "//! Things.\npub mod types;"));
    assert!(!catch("src/ids/a.rs", "//! Common things.\nmod address;"));
}

// ---------------------------------------------------------------------------------------------------------------------
// Law 5: what the data plane never does

fn data_plane_is_bare(source: &Source) -> Vec<String> {
    let Some(room) = source.room().filter(|room| DATA_PLANE.contains(room)) else {
        return Vec::new();
    };
    let more: &[&str] = if room == "session" {
        BANNED_IN_SESSION
    } else {
        &[]
    };
    let mut found = Vec::new();
    for word in BANNED_IN_DATA_PLANE.iter().chain(more) {
        let is_excepted =
            |(path, except, _): &(&str, &str, &str)| *path == source.path && except == word;
        if !EXCEPTIONS.iter().any(is_excepted) {
            let what = format!("{word} has no place in {room}");
            found.extend(places(&source.product, word).map(|at| source.finding(at, &what)));
        }
    }
    found
}

#[test]
fn banned_words_are_found() {
    let law = data_plane_is_bare;
    let catch = |path: &str, text: &str| !law(&Source::new(path, text)).is_empty();
    for word in BANNED_IN_DATA_PLANE {
        for room in DATA_PLANE {
            assert!(
                catch(
                    &format!("src/{room}/a.rs"),
                    &format!("fn f() {{ x; {word} y }}")
                ),
                "{word}"
            );
        }
    }
    for word in BANNED_IN_SESSION {
        assert!(
            catch("src/session/a.rs", &format!("fn f(a: {word}) {{}}")),
            "{word}"
        );
        assert!(
            !catch("src/worker/a.rs", &format!("fn f(a: {word}) {{}}")),
            "{word}"
        );
    }
    assert!(!catch(
        "src/worker/a.rs",
        "use std::sync::Arc; type A = Arc<u8>; fn f() { catalog::x(); MyMutexes; }"
    ));
    assert!(!catch(
        "src/worker/a.rs",
        "// Mutex\nconst A: &str = \"println!\";"
    ));
    assert!(!catch(
        "src/worker/a.rs",
        "#[cfg(test)]\nmod tests { fn f() { x.unwrap() } }"
    ));
    assert!(!catch("src/office/a.rs", "fn f() { println!(); }"));
}

// ---------------------------------------------------------------------------------------------------------------------
// Law 6: no paths of the machine it was built on

/// In two halves, so that this file does not catch itself.
const MACHINE_PATHS: &[(&str, &str)] = &[
    ("/wo", "rk/"),
    ("/tm", "p/"),
    ("/ro", "ot/"),
    ("/ho", "me/"),
];

fn names_no_machine(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (i, line) in source.text.lines().enumerate() {
        for (one, other) in MACHINE_PATHS {
            let path = [*one, *other].concat();
            if line.contains(&path) {
                found.push(format!(
                    "{}:{}: {path} is a place on one machine",
                    source.path,
                    i + 1
                ));
            }
        }
    }
    found
}

#[test]
fn machine_paths_are_found() {
    let (one, other) = MACHINE_PATHS[0];
    let text = format!("# see {one}{other}notes");
    assert!(!names_no_machine(&Source::new("README.md", &text)).is_empty());
    assert!(names_no_machine(&Source::new("README.md", "src/worker/ and /run/x")).is_empty());
}

// ---------------------------------------------------------------------------------------------------------------------
// The house as it is

fn obey(law: fn(&Source) -> Vec<String>, is_bound: fn(&Source) -> bool) {
    let sources = house();
    let found: Vec<String> = sources
        .iter()
        .filter(|s| is_bound(s))
        .flat_map(law)
        .collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

fn is_rust(source: &Source) -> bool {
    source.path.ends_with(".rs")
}

#[test]
fn every_room_names_only_those_of_its_row() {
    obey(imports_stay_in_their_row, is_rust);
}

#[test]
fn unsafe_is_in_sys_and_uring_only() {
    obey(unsafe_stays_in_its_rooms, is_rust);
}

#[test]
fn files_and_functions_are_short() {
    obey(nothing_is_too_long, is_rust);
}

#[test]
fn every_file_has_a_header_and_a_telling_name() {
    obey(files_say_what_they_are_for, is_rust);
}

#[test]
fn the_data_plane_does_not_block_print_or_share() {
    obey(data_plane_is_bare, is_rust);
}

#[test]
fn nothing_names_a_place_on_this_machine() {
    obey(names_no_machine, |_| true);
}

#[test]
fn every_exception_is_still_needed() {
    let sources = house();
    for (path, word, why) in EXCEPTIONS {
        assert!(!why.is_empty());
        let source = sources.iter().find(|source| source.path == *path);
        let is_needed = source.is_some_and(|s| places(&s.product, word).next().is_some());
        assert!(is_needed, "{path} does not use {word} any more");
    }
}

#[test]
fn every_file_to_be_split_is_still_too_long() {
    let sources = house();
    for (path, _) in TO_BE_SPLIT {
        let source = sources.iter().find(|source| source.path == *path);
        let lines = source.map_or(0, |s| s.text.lines().count() - s.test_lines);
        assert!(lines > FILE_LINES_MAX, "{path} has {lines} lines now");
    }
}

#[test]
fn the_walk_sees_the_house() {
    let sources = house();
    let is_there = |path: &str| sources.iter().any(|source| source.path == path);
    for path in [
        "src/lib.rs",
        "src/ids/mod.rs",
        "tests/tidy.rs",
        "Cargo.toml",
    ] {
        assert!(is_there(path), "{path}");
    }
    let tests = test_modules(&sources);
    assert!(tests.contains("src/balance/tests"), "{tests:?}");
    let beside = "#[cfg(test)]\n#[path = \"a_tests.rs\"]\nmod tests;";
    let tests = test_modules(&[Source::new("src/ids/a.rs", beside)]);
    assert!(tests.contains("src/ids/a_tests"), "{tests:?}");
}
