//! The contract of the configuration: exact messages for what is wrong, the defaults of the specification, and an example
//! that runs. Only public functions are used.

use ringway::config::{AcceptProxy, Plan, RoutePlan, load, parse, written};

#[path = "config/properties.rs"]
mod properties;
#[path = "config/values.rs"]
mod values;

/// A configuration that is fine, with room for what a test is about. Lines: `global` from 2, `admin` from 4, `listener`
/// from 9, `pool` from 12, `backend` from 15 (as long as each insert is one line).
fn text(global: &str, admin: &str, listener: &str, pool: &str, backend: &str) -> String {
    format!(
        "[global]\n{global}\n[admin]\n{admin}\n[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:7000\"\npool = \"p\"\n\
         {listener}\n[[pool]]\nname = \"p\"\n{pool}\n[[pool.backend]]\naddress = \"127.0.0.1:1\"\n{backend}\n"
    )
}

/// The plan of a text that is fine. Written out again as a file, it must be the same plan.
fn fine(text: &str) -> Plan {
    let read = |text: &str| {
        parse(text, "c.toml", &|_| None).unwrap_or_else(|error| panic!("{error}\nin\n{text}"))
    };
    let plan = read(text);
    let again = written(&plan);
    assert_eq!(read(&again), plan, "written as\n{again}");
    plan
}

/// What is said about a text that is wrong.
fn said(text: &str) -> String {
    match parse(text, "c.toml", &|_| None) {
        Ok(_) => panic!("taken as valid:\n{text}"),
        Err(error) => error.to_string(),
    }
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Global,
    Admin,
    Listener,
    Pool,
    Backend,
}

fn with(part: Part, line: &str) -> String {
    let put = |here: bool| if here { line } else { "" };
    text(
        put(matches!(part, Part::Global)),
        put(matches!(part, Part::Admin)),
        put(matches!(part, Part::Listener)),
        put(matches!(part, Part::Pool)),
        put(matches!(part, Part::Backend)),
    )
}

/// `PART | LINE => MESSAGE`, see the file's head.
#[test]
fn what_is_refused_is_named_with_line_key_found_and_allowed() {
    let cases = include_str!("config/refused.txt");
    let cases = cases
        .lines()
        .filter(|case| !case.is_empty() && !case.starts_with('#'));
    let mut count = 0;
    for case in cases {
        let (part, rest) = case.split_once(" | ").unwrap();
        let (line, expected) = rest.split_once(" => ").unwrap();
        let part = match part {
            "Global" => Part::Global,
            "Admin" => Part::Admin,
            "Listener" => Part::Listener,
            "Pool" => Part::Pool,
            "Backend" => Part::Backend,
            other => panic!("no part {other}"),
        };
        assert_eq!(said(&with(part, line)), format!("c.toml:{expected}"));
        count += 1;
    }
    assert!(count >= 60, "only {count} cases were read");
}

#[test]
fn an_unknown_table_is_named_with_the_nearest_known_one() {
    let misspelt = fine_text().replace("[global]", "[globl]");
    assert_eq!(
        said(&misspelt),
        "c.toml:1: globl: unknown key; did you mean \"global\"?"
    );
}

fn fine_text() -> String {
    text("", "", "", "", "")
}

#[test]
fn defaults_of_later_keys_may_be_written_out() {
    let plan = fine(&text(
        "user = \"\"\ngroup = \"\"\nsandbox = \"on\"",
        "socket = \"\"",
        "protocol = \"tcp\"\naccept_proxy = false\naccept_proxy_from = []\npreface_timeout = \"5s\"\nroute = []",
        "send_proxy = \"off\"\non_role_change = \"close\"\ncancel = \"off\"\n\
         breaker = { consecutive_failures = 3, early_reset = \"100ms\", error_percent = 50, window = \"10s\", volume = 20, \
         open = \"5s\", open_max = \"60s\", trials = 1, max_ejected_percent = 50 }\n\
         warm = { size = 0, max_age = \"5s\", profile = \"generic\", force = false }\n\
         udp = { idle_timeout = \"60s\", responses = 0, requests = 0, max_flows = 0, send_proxy_every = false }",
        "",
    ));
    assert_eq!(plan, fine(&fine_text()));
}

#[test]
fn a_profile_decides_the_age_of_warm_connections() {
    let warm = |line: &str| {
        let plan = fine(&with(Part::Pool, &format!("warm = {{ {line} }}")));
        plan.pools[0].warm.expect("some are wanted")
    };
    for (profile, seconds) in [("generic", 5), ("postgres", 15), ("redis", 60)] {
        let plan = warm(&format!("size = 4, profile = \"{profile}\""));
        assert_eq!((plan.size, plan.max_age.as_secs()), (4, seconds));
        assert_eq!(plan.profile.word(), profile);
    }
    let plan = warm("size = 16, profile = \"mysql\", force = true");
    assert_eq!((plan.size, plan.max_age.as_secs()), (16, 3));
    let plan = warm("size = 1, profile = \"postgres\", max_age = \"200ms\"");
    assert_eq!(plan.max_age.as_millis(), 200);
}

#[test]
fn who_may_announce_clients_is_said_beyond_loopback() {
    let text = with(Part::Listener, "accept_proxy = true");
    assert_eq!(
        fine(&text).listeners[0].accept_proxy,
        AcceptProxy::Everybody
    );
    for open in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
        let text = text.replace("127.0.0.1:7000", open);
        let line = "9: listener.accept_proxy: found true, but line 7 listens beyond loopback; allowed: with \
                    accept_proxy_from, the networks of those who send the header";
        assert!(said(&text).ends_with(line), "{}", said(&text));
        let from = "accept_proxy = true\naccept_proxy_from = [\"10.0.0.0/8\", \"192.0.2.1\"]";
        let plan = fine(&text.replace("accept_proxy = true", from));
        let networks = vec![
            "10.0.0.0/8".parse().unwrap(),
            "192.0.2.1/32".parse().unwrap(),
        ];
        assert_eq!(plan.listeners[0].accept_proxy, AcceptProxy::From(networks));
    }
}

#[test]
fn routes_lead_to_pools_and_bring_them_their_ports() {
    let second = "[[pool]]\nname = \"q\"\n[[pool.backend]]\naddress = \"127.0.0.1:+3\"\n";
    let routes =
        "route = [{ sni = \"One.Test\", pool = \"q\" }, { sni = \"*.test\", pool = \"p\" }]";
    let plan = fine(&(with(Part::Listener, routes) + second));
    let route = |sni: &str, pool| RoutePlan {
        sni: sni.to_owned(),
        pool,
    };
    assert_eq!(
        plan.listeners[0].routes,
        [route("one.test", 1), route("*.test", 0)]
    );
    assert_eq!(plan.check_port(1, 0), Some(7003));
    let over = with(Part::Listener, routes).replace("127.0.0.1:7000", "127.0.0.1:65534") + second;
    assert!(
        said(&over).contains("allowed: an offset from 0 to 1"),
        "{}",
        said(&over)
    );
}

#[test]
fn parts_that_do_not_fit_each_other_are_named() {
    let fine = fine_text();
    let second =
        |binds: &str| format!("{fine}[[listener]]\nname = \"m\"\nbind = {binds}\npool = \"p\"\n");
    let cases = [
        (
            fine.replace(
                "[[pool.backend]]\n",
                "warm = { size = 2 }\n[[pool.backend]]\n",
            )
            .replace("127.0.0.1:1", "127.0.0.1:+1"),
            "15: pool.backend.address: found \"127.0.0.1:+1\" in a pool with warm connections, which have no client's port; \
             allowed: HOST:PORT",
        ),
        (
            fine.replace("pool = \"p\"", "pool = \"q\""),
            "8: listener.pool: found \"q\", which is no pool; allowed: \"p\"",
        ),
        (
            format!("{fine}[[pool]]\nname = \"p\"\n[[pool.backend]]\naddress = \"127.0.0.1:2\"\n"),
            "17: pool.name: found \"p\", which is the name at line 11 already; allowed: a name once among pools",
        ),
        (
            format!("{fine}[[pool.backend]]\naddress = \"127.0.0.1:1\"\n"),
            "17: pool.backend.name: found \"127.0.0.1:1\", which is the name at line 14 already; allowed: a name once in \
             its pool",
        ),
        (
            second("\"127.0.0.1:8000\"").replace("\"m\"", "\"l\""),
            "17: listener.name: found \"l\", which is the name at line 6 already; allowed: a name once among listeners",
        ),
        (
            second("\"127.0.0.1:7000\""),
            "18: listener.bind: found \"127.0.0.1:7000\", which line 7 binds already; allowed: each address once in the file",
        ),
        (
            second("[\"127.0.0.1:8000\", \"127.0.0.1:6990-7010\"]"),
            "18: listener.bind: found \"127.0.0.1:7000\", which line 7 binds already; allowed: each address once in the file",
        ),
        (
            second("[\"unix:/run/a\", \"unix:/run/a\"]"),
            "18: listener.bind: found \"unix:/run/a\", which line 18 binds already; allowed: each address once in the file",
        ),
        (
            second("\"0.0.0.0:9900-9902\""),
            "18: listener.bind: found \"0.0.0.0:9901\", which is taken by admin.bind = \"127.0.0.1:9901\"; allowed: an \
             address of its own",
        ),
        (
            format!("{fine}[[pool]]\nname = \"empty\"\n"),
            "16: pool.backend: no backend; allowed: at least one [[pool.backend]]",
        ),
        (
            second("\"unix:/run/a\"").replace("\"127.0.0.1:1\"", "\"127.0.0.1:+0\""),
            "14: pool.backend.address: found \"127.0.0.1:+0\", but line 18 listens on a unix socket, which has no port; \
             allowed: HOST:PORT",
        ),
        (
            second("\"127.0.0.1:7001\"").replace("\"127.0.0.1:1\"", "\"127.0.0.1:+0\""),
            "14: pool.backend.address: found \"127.0.0.1:+0\" behind more than one port, so a check does not know which; \
             allowed: with pool.health.port set, or kind = \"none\"",
        ),
        (
            fine.replace("\"127.0.0.1:1\"", "\"127.0.0.1:+60000\""),
            "14: pool.backend.address: found \"127.0.0.1:+60000\", but line 7 listens on port 7000; allowed: an offset \
             from 0 to 58535",
        ),
        (
            with(Part::Pool, "health = { port = 80 }")
                .replace("\"127.0.0.1:1\"", "\"unix:/run/b\""),
            "12: pool.health.port: found a port, but backend \"unix:/run/b\" has none; allowed: 0 in a pool with unix sockets",
        ),
        (
            with(Part::Listener, "protocol = \"udp\"")
                .replace("\"127.0.0.1:7000\"", "\"unix:/run/l\""),
            "7: listener.bind: found \"unix:/run/l\" with protocol = \"udp\"; allowed: internet addresses",
        ),
        (
            with(Part::Listener, "protocol = \"udp\"")
                .replace("\"127.0.0.1:1\"", "\"unix:/run/b\""),
            "8: listener.pool: found \"p\", which has a backend on a unix socket, with protocol = \"udp\"; allowed: a pool \
             of internet addresses",
        ),
        (
            with(Part::Listener, "protocol = \"udp\"")
                .replace("[[pool.backend]]", "send_proxy = \"v1\"\n[[pool.backend]]"),
            "13: pool.send_proxy: found \"v1\", but line 8 sends datagrams to this pool, for which version 1 has no words; \
             allowed: off | v2",
        ),
        (
            with(Part::Listener, "protocol = \"udp\"\naccept_proxy = true"),
            "8: listener.protocol: found accept_proxy or a route with protocol = \"udp\"; allowed: with protocol = \"tcp\" \
             only, whose first bytes can be waited for",
        ),
        (
            with(Part::Pool, "health = { kind = \"udp\" }")
                .replace("\"127.0.0.1:1\"", "\"unix:/run/b\""),
            "12: pool.health.kind: found \"udp\", but backend \"unix:/run/b\" takes no datagrams; allowed: another kind in a \
             pool with unix sockets",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(said(&text), format!("c.toml:{expected}"), "in\n{text}");
    }
}

#[test]
fn what_is_missing_or_of_another_shape_is_named() {
    let fine = fine_text();
    let cases = [
        (
            "",
            "c.toml: listener: missing; allowed: at least one [[listener]]",
        ),
        (
            "listener = []\n",
            "c.toml: listener: missing; allowed: at least one [[listener]]",
        ),
        (
            "[listener]\nname = \"x\"\n",
            "c.toml:1: listener: found a table; allowed: tables, each begun by [[listener]]",
        ),
        (
            "listener = [1]\n",
            "c.toml:1: listener: found 1; allowed: tables, each begun by [[listener]]",
        ),
        (
            "[[listener]]\nname = \"x\"\nbind = \"127.0.0.1:1\"\npool = \"p\"\n",
            "c.toml:4: listener.pool: found \"p\", but there is no [[pool]]; allowed: the name of one",
        ),
        (
            &fine.replace("name = \"l\"\n", ""),
            "c.toml:5: listener.name: missing; allowed: a name of its own",
        ),
        (
            &fine.replace("pool = \"p\"\n", ""),
            "c.toml:5: listener.pool: missing; allowed: the name of a [[pool]]",
        ),
        (
            &fine.replace("bind = \"127.0.0.1:7000\"\n", ""),
            "c.toml:5: listener.bind: missing; allowed: an address or a list of addresses",
        ),
        (
            &fine.replace("\"127.0.0.1:7000\"", "[]"),
            "c.toml:7: listener.bind: found an empty list; allowed: at least one address",
        ),
        (
            &fine.replace("address = \"127.0.0.1:1\"\n", ""),
            "c.toml:13: pool.backend.address: missing; allowed: HOST:PORT or unix:/PATH",
        ),
        (
            &fine.replace("[[pool.backend]]", "[pool.backend]"),
            "c.toml:13: pool.backend: found a table; allowed: tables, each begun by [[pool.backend]]",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(said(text), expected, "in\n{text}");
    }
}

#[test]
fn faults_of_the_toml_itself_name_the_line() {
    let cases = [
        ("[global]\nworkers = \n", "c.toml:2: not valid TOML: "),
        (
            "[global]\nworkers = 1\nworkers = 2\n",
            "c.toml:3: not valid TOML: duplicate key",
        ),
        ("[global\n", "c.toml:1: not valid TOML: "),
        ("x = \"\\q\"\n", "c.toml:1: not valid TOML: "),
    ];
    for (text, beginning) in cases {
        let said = said(text);
        assert!(said.starts_with(beginning), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn all_faults_are_named_in_the_order_of_lines() {
    let text = text(
        "workers = -1",
        "",
        "backlog = 0\nwat = 1",
        "algorithm = \"x\"",
        "weight = 5000",
    );
    let keys: Vec<String> = parse(&text, "c.toml", &|_| None)
        .unwrap_err()
        .faults
        .into_iter()
        .map(|fault| fault.key)
        .collect();
    assert_eq!(
        keys,
        [
            "global.workers",
            "listener.backlog",
            "listener.wat",
            "pool.algorithm",
            "pool.backend.weight"
        ]
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.toml");
    assert_eq!(
        load(&absent).unwrap_err().to_string(),
        format!(
            "{}: cannot be read: No such file or directory (os error 2)",
            absent.display()
        )
    );
    assert_eq!(
        load(folder.path()).unwrap_err().to_string(),
        format!(
            "{}: cannot be read: Is a directory (os error 21)",
            folder.path().display()
        )
    );
    let binary = folder.path().join("binary.toml");
    std::fs::write(&binary, b"# \xff\n").unwrap();
    assert_eq!(
        load(&binary).unwrap_err().to_string(),
        format!(
            "{}: found a byte that is not UTF-8 at offset 2; allowed: UTF-8 text",
            binary.display()
        )
    );
    assert_eq!(
        load("/dev/zero".as_ref()).unwrap_err().to_string(),
        "/dev/zero: found more than 16 MiB; allowed: at most that"
    );
}

#[test]
fn variables_are_replaced_inside_strings_only() {
    let environment = |name: &str| match name {
        "PORT" => Some("7777".to_owned()),
        "EMPTY" => Some(String::new()),
        "TRICK" => Some("x\"\n[admin]\n${PORT}".to_owned()),
        _ => None,
    };
    let parse = |bind: &str| {
        let text = fine_text().replace("127.0.0.1:7000", bind);
        parse(&text, "c.toml", &environment).map_err(|error| error.to_string())
    };
    let port = |bind: &str| {
        parse(bind).unwrap().listeners[0].binds[0]
            .inet()
            .unwrap()
            .port()
    };
    assert_eq!(port("127.0.0.1:${PORT}"), 7777);
    assert_eq!(port("127.0.0.1:${NONE:-7001}"), 7001);
    assert_eq!(port("127.0.0.1:${EMPTY:-7002}"), 7002);
    assert_eq!(port("${HOST:-127.0.0.1}:${PORT:-1}"), 7777);
    assert_eq!(
        parse("127.0.0.1:${NONE}")
            .unwrap_err()
            .lines()
            .next()
            .unwrap(),
        "c.toml:7: listener.bind: ${NONE} is not set in the environment; allowed: a variable that is set, or a default \
         as in ${NONE:-default}"
    );
    assert_eq!(
        parse("127.0.0.1:${9}").unwrap_err().lines().next().unwrap(),
        "c.toml:7: listener.bind: found ${9}; allowed: a variable's name of letters, digits and _, not beginning with a \
         digit"
    );
    assert_eq!(
        parse("127.0.0.1:${PORT")
            .unwrap_err()
            .lines()
            .next()
            .unwrap(),
        "c.toml:7: listener.bind: found \"127.0.0.1:${PORT\"; allowed: ${NAME} or ${NAME:-default}, closed by }"
    );
    // A value cannot bring in keys, lines or variables of its own.
    let tricked = parse("${TRICK}").unwrap_err();
    assert!(
        tricked.starts_with(
            "c.toml:7: listener.bind: found \"x\\\"\\n[admin]\\n${PORT}\"; allowed: IP:PORT"
        ),
        "{tricked}"
    );
    // Nor does anything happen outside string values.
    let outside = said(&format!(
        "# ${{NONE}}\n{}",
        with(Part::Pool, "\"${PORT}\" = 1")
    ));
    assert!(
        outside.starts_with("c.toml:13: pool.${PORT}: unknown key"),
        "{outside}"
    );
}

/// 80 characters of it are shown, wherever their bytes end.
#[test]
fn a_long_value_is_cut_in_its_message() {
    let line = format!("algorithm = \"x{}\"", "ü".repeat(200));
    let beginning = format!(
        "c.toml:12: pool.algorithm: found \"x{}\"…; allowed: round-robin",
        "ü".repeat(79)
    );
    let said = said(&with(Part::Pool, &line));
    assert!(said.starts_with(&beginning), "{said}");
}

/// Nesting as deep as a file can have it ends in a sentence, not in an exhausted stack.
#[test]
fn deep_nesting_is_refused() {
    let deep = 200_000;
    for text in [
        format!("x = {}", "[".repeat(deep)),
        format!("x = {}", "{a=".repeat(deep)),
        format!("x{} = 1", ".x".repeat(deep)),
        format!("[x{}]", ".x".repeat(deep)),
        format!("{}\n", "[x.x]\n".repeat(3)),
    ] {
        assert!(!said(&text).is_empty());
    }
}

/// What a plan is written as has every key of the example file, so that it can be the beginning of one's own.
#[test]
fn a_written_plan_has_every_key_of_the_example() {
    let example = include_str!("../config.toml").replace("size = 0  ", "size = 4  ");
    let text = written(&fine(&example));
    let key = |line: &str| {
        let (key, _) = line.split_once(" = ")?;
        let plain = key
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        plain.then(|| key.to_owned())
    };
    let keys: Vec<String> = example.lines().filter_map(key).collect();
    assert!(keys.len() > 60, "{keys:?}");
    let mut without: Vec<_> = keys
        .iter()
        .filter(|key| !text.contains(&format!("\n{key} = ")))
        .collect();
    without.dedup();
    assert!(without.is_empty(), "{without:?} in\n{text}");
}
