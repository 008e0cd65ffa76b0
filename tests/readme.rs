//! The README says what is so: its example configurations are valid, what it shows of answers is what is answered, and the
//! commands, options, requests, metrics and words that it names are those that there are, all of them.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::backends::{Backend, read_line};
use support::ringway::{PROGRAM, Ringway, Setup, listener, pool, pool_with, run, said};
use support::wait::{seconds, until};
use support::{http, net};

const README: &str = include_str!("../README.md");

/// What stands between the fences of this kind (`toml`, or nothing), block by block.
fn blocks(kind: &str) -> Vec<&'static str> {
    let mut found = Vec::new();
    let mut rest = README;
    while let Some((_, opened)) = rest.split_once("\n```") {
        let (own, body) = opened.split_once('\n').unwrap();
        let (block, after) = body.split_once("```").expect("a fence that is closed");
        if own == kind {
            found.push(block);
        }
        rest = after;
    }
    found
}

#[track_caller]
fn block_with(kind: &str, part: &str) -> &'static str {
    let mut found = blocks(kind)
        .into_iter()
        .filter(|block| block.contains(part));
    let block = found
        .next()
        .unwrap_or_else(|| panic!("no block with {part:?}"));
    assert_eq!(found.next(), None, "two blocks with {part:?}");
    block
}

/// What stands between these two, the first time.
#[track_caller]
fn between(from: &str, to: &str) -> &'static str {
    let (_, rest) = README
        .split_once(from)
        .unwrap_or_else(|| panic!("no {from:?}"));
    rest.split_once(to).unwrap_or_else(|| panic!("no {to:?}")).0
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// `ringway check` of this text, as `ringway.toml` in the working directory.
fn check(text: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ringway.toml"), text).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["check", "-c", "ringway.toml"]).args(more);
    let output = command.current_dir(folder.path()).output().unwrap();
    said(&output)
}

#[test]
fn example_configurations_are_valid_and_say_what_is_shown() {
    let first = block_with("toml", "name = \"postgres\"");
    let (status, plan, err) = check(first, &[]);
    assert_eq!(status, Some(0), "{plan}{err}");
    let shown = block_with("", "worst case");
    for line in shown.lines().filter(|line| line.trim() != "…") {
        // How many it is, and what carries no more, depends on the machine.
        let (wanted, _) = line.split_once("9326").unwrap_or((line, ""));
        assert!(plan.contains(wanted), "{line:?} in\n{plan}");
    }
    let said = block_with("", "leastconn").trim().trim_end_matches('…');
    let wrong = first.replace(
        "name = \"pg\"\n",
        "name = \"pg\"\nalgorithm = \"leastconn\"\n",
    );
    let (status, _, err) = check(&wrong, &[]);
    assert_eq!(status, Some(2));
    assert!(err.starts_with(said), "{err} is not {said}");

    let (status, _, err) = check(block_with("toml", "name = \"resolvers\""), &[]);
    assert_eq!(status, Some(0), "{err}");
    let member = "[[pool.backend]]\naddress = \"127.0.0.1:1\"\n";
    let before = listener("l", "127.0.0.1:2", "pg") + "[[pool]]\nname = \"pg\"\n";
    let breaker = block_with("toml", "early_reset");
    let (status, _, err) = check(&format!("{before}{breaker}{member}"), &[]);
    assert_eq!(status, Some(0), "{err}");
    // What is shown there are the defaults.
    let written = |text: &str| check(text, &["--defaults"]).1;
    assert_eq!(
        written(&format!("{before}{breaker}{member}")),
        written(&format!("{before}{member}"))
    );

    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("check-password");
    fs::write(&password, "secret\n").unwrap();
    let role = block_with("toml", "role = \"primary\"");
    let role = role.replace("/etc/ringway/check-password", password.to_str().unwrap());
    let text = listener("l", "127.0.0.1:2", "pg") + &role + "\n" + member;
    let (status, _, err) = check(&text, &[]);
    assert_eq!(status, Some(0), "{err}");
    assert_eq!(blocks("toml").len(), 4, "a new example wants a test");
}

/// The rows of the table under this heading: what stands in their first cell.
fn rows(heading: &str) -> Vec<String> {
    let (_, rest) = README.split_once(heading).expect(heading);
    let table = rest
        .lines()
        .skip_while(|line| !line.starts_with("| "))
        .skip(2);
    let rows = table.take_while(|line| line.starts_with("| "));
    rows.map(|row| row[2..].split(" | ").next().unwrap().replace("\\|", "|"))
        .collect()
}

/// Names of long options in a text.
fn options(text: &str) -> BTreeSet<String> {
    let parts = text.split("--").skip(1);
    let name = |part: &str| -> String {
        part.chars()
            .take_while(|c| c.is_ascii_lowercase() || *c == '-')
            .collect()
    };
    parts.map(name).filter(|name| !name.is_empty()).collect()
}

#[test]
fn every_command_and_option_is_named_and_exists() {
    let help = |arguments: &[&str]| {
        let output = run(&[arguments, &["--help"]].concat());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let all = help(&[]);
    let listed = all.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| line.starts_with("  "));
    let exist: BTreeSet<String> = listed
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect();
    let mut named = BTreeSet::new();
    for row in rows("## Commands") {
        for command in row
            .split('`')
            .filter_map(|part| part.strip_prefix("ringway "))
        {
            let name = command.split_whitespace().next().unwrap();
            assert!(named.insert(name.to_owned()), "{name} is there twice");
            let told = help(&[name]);
            // These are explained below the table, for all commands that ask.
            let mut own = options(&told);
            for everywhere in ["help", "socket", "config", "json"] {
                own.remove(everywhere);
            }
            let mut shown = options(command);
            shown.remove("json");
            assert_eq!(shown, own, "{name}");
            assert!(
                !command.contains("--json") || told.contains("--json"),
                "{name} --json"
            );
            for place in ["POOL/BACKEND", "SESSION", "NAME", "FILE"] {
                let upper = command.replace("SESSIONS", "");
                assert!(
                    !upper.contains(place) || told.contains(place),
                    "{name}: {place} in {told}"
                );
            }
        }
    }
    assert_eq!(named, exist);
    assert!(README.contains(
        "Those that ask a running instance print its answer as it is with `--json`, but for `top`."
    ));
    for name in [
        "status", "explain", "drain", "maintain", "ready", "weight", "sessions", "kill", "reload",
        "upgrade", "confirm",
    ] {
        let own = options(&help(&[name]));
        assert!(
            own.contains("json") && own.contains("socket"),
            "{name}: {own:?}"
        );
    }
    assert!(!options(&help(&["top"])).contains("json"));
}

struct Scene {
    ringway: Ringway,
    socket: PathBuf,
    front: std::net::SocketAddr,
    servers: Vec<Backend>,
}

/// As in the examples: `postgres` before `pg`.
fn scene() -> Scene {
    let servers: Vec<Backend> = (0..3).map(|_| Backend::named("a")).collect();
    let front = net::free_address();
    let checked =
        "[pool.health]\nkind = \"tcp\"\ninterval = \"200ms\"\nfast_interval = \"50ms\"\nfall = 1\n";
    let members = ["pg1", "pg2", "pg3"].iter().zip(&servers);
    let members: Vec<_> = members
        .map(|(name, own)| (*name, own.address.to_string(), ""))
        .collect();
    let replies =
        listener("dns", net::free_address(), "dns").replace("\npool", "\nprotocol = \"udp\"\npool");
    let body = listener("postgres", front, "pg")
        + &replies
        + &listener("spare", net::free_address(), "spare")
        + &pool_with("pg", "algorithm = \"least-connections\"", checked, &members)
        + &pool(
            "spare",
            "cancel = \"postgres\"",
            &[("s", servers[0].address)],
        )
        + &pool("dns", "", &[("d", net::free_address())]);
    let lines = "workers = 1\npin = \"off\"\nshutdown_grace = \"5s\"\naccess_log = \"stdout\"\n";
    let setup = Setup::new(body).global(lines);
    let ringway = setup.with_socket().start();
    Scene {
        socket: ringway.socket(),
        ringway,
        front,
        servers,
    }
}

impl Scene {
    fn run(&self, arguments: &[&str]) -> String {
        let socket = self.socket.to_str().unwrap();
        let (own, rest) = arguments.split_at(1);
        let output = run(&[own, &["--socket", socket], rest].concat());
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {err}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn sessions(&self, count: usize) -> Vec<std::net::TcpStream> {
        let one = |_| {
            let stream = net::connect(self.front);
            read_line(&stream).expect("a greeting");
            stream
        };
        (0..count).map(one).collect()
    }
}

/// The command behind `$ ` in an example, and what it shows.
fn example(command: &str) -> (Vec<&'static str>, &'static str) {
    let block = block_with("", &format!("$ ringway {command}"));
    let (asked, shown) = block.split_once('\n').unwrap();
    let asked = asked.strip_prefix("$ ringway ").unwrap();
    (asked.split_whitespace().collect(), shown)
}

#[test]
fn answers_are_shown_as_they_are() {
    let mut scene = scene();
    let hold = |scene: &Scene, only: &str, count: usize| {
        let others = ["pg1", "pg2", "pg3"]
            .into_iter()
            .filter(|name| *name != only);
        others
            .clone()
            .for_each(|name| drop(scene.run(&["drain", &format!("pg/{name}")])));
        let held = scene.sessions(count);
        others.for_each(|name| drop(scene.run(&["ready", &format!("pg/{name}")])));
        held
    };
    let held = (hold(&scene, "pg1", 3), hold(&scene, "pg2", 9));
    scene.servers[2].kill();
    scene.ringway.wait_state("pg3", "down", seconds(10));
    let (asked, shown) = example("explain");
    assert_eq!(scene.run(&asked), shown);
    drop(held);

    // A line of the log has those keys in that order.
    let line = block_with("", "listener=postgres client=");
    let keys = |line: &str| -> Vec<String> {
        let pairs = line
            .split_whitespace()
            .map(|pair| pair.split('=').next().unwrap());
        pairs.map(str::to_owned).collect()
    };
    until(seconds(10), "the log has lines", || {
        scene.ringway.stdout().lines().count() >= 12
    });
    for logged in scene.ringway.stdout().lines() {
        assert_eq!(keys(logged), keys(line), "{logged}");
    }

    // From two backends to three, one of half the weight.
    let text = scene.ringway.text();
    let (two, third) = text
        .rsplit_once("[[pool.backend]]\nname = \"pg3\"")
        .unwrap();
    let (third, rest) = third.split_once("[[pool]]").unwrap();
    let rest = format!("[[pool]]{rest}");
    scene.ringway.write_raw(&format!("{two}{rest}"));
    scene.run(&["reload"]);
    let lines = two.replace("algorithm =", "idle_timeout = \"5m\"\nalgorithm =");
    let lines = lines.replacen("name = \"pg1\"\n", "name = \"pg1\"\nweight = 50\n", 1);
    let three = format!("{lines}[[pool.backend]]\nname = \"pg3\"{third}{rest}");
    scene.ringway.write_raw(&three);
    let (asked, shown) = example("reload");
    let said = scene.run(&asked);
    let without_stamp = |text: &str| {
        let (before, after) = text.split_once("comes back at ").expect("a moment");
        let (stamp, after) = after.split_once(' ').unwrap();
        (before.to_owned(), stamp.len(), after.to_owned())
    };
    assert_eq!(without_stamp(&said), without_stamp(shown));

    // The request by curl does what it shows.
    let curl = block_with("", "-X PUT -d");
    let (_, body) = curl.split_once("-d '").unwrap();
    let (body, url) = body.split_once("' http://localhost").unwrap();
    let (code, answer) = http::over_socket(&scene.socket, "PUT", url.trim(), body).unwrap();
    assert_eq!(
        (code, answer["backend"]["admin"].as_str()),
        (200, Some("draining"))
    );
}

/// The values of a label, over all series of a metric.
fn label(metrics: &str, metric: &str, label: &str) -> BTreeSet<String> {
    let series = metrics
        .lines()
        .filter(|line| line.starts_with(&format!("ringway_{metric}{{")));
    let value = |line: &str| {
        let (_, rest) = line.split_once(&format!("{label}=\"")).expect(metric);
        rest.split('"').next().unwrap().to_owned()
    };
    series.map(value).collect()
}

#[test]
fn words_metrics_and_requests_are_those_that_there_are() {
    let scene = scene();
    let (_, metrics) = scene.ringway.get("/metrics").unwrap();
    for word in README.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
        if word.starts_with("ringway_") && word != "ringway_" {
            let is_there = metrics.contains(&format!("# TYPE {word} "));
            assert!(is_there, "{word} is no metric");
        }
    }
    let ends = between("`end` is side and cause: `", "`. Each has one counter");
    assert_eq!(words(ends), label(&metrics, "session_ends_total", "end"));
    let refused = between("`ringway_refused_total{listener,reason}` counts `", "`");
    assert_eq!(words(refused), label(&metrics, "refused_total", "reason"));
    let checks = between("`ringway_check_total{result}` counts `", "`");
    assert_eq!(words(checks), label(&metrics, "check_total", "result"));
    let resources = between("`ringway_headroom_ratio{resource}` (`", "`");
    let mut there = label(&metrics, "headroom_ratio", "resource");
    // It is looked at when sessions come; all of them may not be known yet.
    there.retain(|resource| !words(resources).contains(resource));
    assert!(there.is_empty(), "{there:?} are not told");
    let cancels = between("`ringway_cancels_total{result}` counts `", " ones.");
    let cancels = words(&cancels.replace(['`', ','], " ").replace(" and ", " "));
    assert_eq!(cancels, label(&metrics, "cancels_total", "result"));
    let kept = between("`ringway_breaker_kept_total{reason}` (`", ")");
    assert_eq!(
        words(&kept.replace(['`', ','], " ")),
        label(&metrics, "breaker_kept_total", "reason")
    );

    // Requests that change something, here and in the description for programs.
    let (_, described) = http::over_socket(&scene.socket, "GET", "/v1/openapi.json", "").unwrap();
    let mut there = BTreeSet::new();
    for (path, methods) in described["paths"].as_object().unwrap() {
        let methods = methods.as_object().unwrap().keys();
        for method in methods.filter(|method| !["get", "parameters"].contains(&method.as_str())) {
            there.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let mut told = BTreeSet::new();
    for row in rows("## Changing it while it runs") {
        let request = row.split('`').nth(1).unwrap().split('?').next().unwrap();
        match request.split_once(' ') {
            Some(("GET", path)) => assert!(described["paths"][path].is_object(), "{path}"),
            Some(_) => drop(told.insert(request.to_owned())),
            // "PUT there": the path of the row above.
            None => drop(told.insert(format!("{request} /v1/pools/{{pool}}/backends/{{backend}}"))),
        }
    }
    assert_eq!(told, there);
    // What is told of the doors.
    for path in [
        "/metrics",
        "/healthz",
        "/readyz",
        "/v1/status",
        "/v1/openapi.json",
        "/",
    ] {
        assert_eq!(scene.ringway.get(path).unwrap().0, 200, "{path}");
        assert!(README.contains(&format!("`{path}`")), "{path}");
    }
    let (code, _) = http::over_tcp(
        scene.ringway.admin(),
        "PUT",
        "/v1/pools/pg/backends/pg1",
        "{}",
    )
    .unwrap();
    assert_eq!(code, 403);
}

/// Files that it points at are there, and pictures are pictures.
#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut links = 0;
    for part in README.split("](").skip(1) {
        let link = part.split(')').next().unwrap();
        let file = root.join(link);
        assert!(file.is_file(), "{link}");
        if link.ends_with(".png") {
            assert!(fs::read(&file).unwrap().starts_with(b"\x89PNG"), "{link}");
        }
        links += 1;
    }
    assert!(links > 5);
}

/// The page that `man` shows is whole and in order (Debian: man-db).
#[test]
fn the_manual_is_without_faults() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ringway.1");
    let mut page = fs::File::create(&file).unwrap();
    page.write_all(&run(&["man"]).stdout).unwrap();
    let mut command = Command::new("man");
    command
        .args(["--warnings", "--nh", "--nj", "--local-file"])
        .arg(&file);
    command
        .env("LC_ALL", "C.UTF-8")
        .env("MANWIDTH", "100")
        .env("MANROFFOPT", "");
    let output = command.output().expect("man is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    let text = String::from_utf8_lossy(&output.stdout);
    let help = String::from_utf8_lossy(&run(&["--help"]).stdout).into_owned();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    for line in listed.take_while(|line| line.starts_with("  ")) {
        let (name, about) = line.trim().split_once("  ").unwrap();
        if name != "help" {
            // What `--help` says in a line stands there, too, perhaps in two.
            let flat: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(
                flat.contains(&about.split_whitespace().collect::<Vec<_>>().join(" ")),
                "{name}: {about}"
            );
        }
    }
}
