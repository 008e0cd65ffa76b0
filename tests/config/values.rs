//! What is right arrives: defaults as in the specification, every form of address, and the example file.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ringway::config::{
    AccessLog, Algorithm, BackendAddress, CheckKind, CheckPlan, DnsPlan, Expect, HashKey,
    HealthPlan, Host, Keepalive, LimitsPlan, LogFormat, OnFin, OnLoss, Rate, Said, Spin, TierMode,
    TierPlan, UdpPlan, backend_address_of, load,
};
use ringway::ids::{Address, Role};

use super::{Part, fine, fine_text, said, text, with};

#[test]
fn defaults_are_those_of_the_specification() {
    let plan = fine(&fine_text());
    let seconds = Duration::from_secs;
    let keepalive = Some(Keepalive {
        idle: seconds(60),
        interval: seconds(10),
        count: 3,
    });
    let global = &plan.global;
    assert_eq!(
        (global.workers, global.pin, global.max_sessions),
        (None, true, None)
    );
    assert_eq!(
        (global.shutdown_grace, global.shutdown_delay),
        (seconds(300), seconds(0))
    );
    assert_eq!(global.upgrade_grace, None);
    assert_eq!(
        (&global.access_log, global.access_log_format),
        (&AccessLog::Off, LogFormat::Text)
    );
    assert_eq!(global.spin, Spin::Off);
    assert_eq!(plan.admin.bind, Some("127.0.0.1:9901".parse().unwrap()));

    let listener = &plan.listeners[0];
    assert_eq!((listener.freebind, listener.max_connections), (false, None));
    assert_eq!(
        (listener.keepalive, listener.user_timeout),
        (keepalive, None)
    );
    assert_eq!(listener.backlog, 4096);
    assert_eq!(listener.limits, LimitsPlan::default());

    let pool = &plan.pools[0];
    assert_eq!(pool.algorithm, Algorithm::LeastConnections);
    assert_eq!((pool.hash_key, pool.hash_seed), (HashKey::Address, 0));
    assert!(pool.source.is_empty());
    assert_eq!(pool.connect_rate, None);
    assert_eq!(
        (pool.connect_timeout, pool.connect_attempts),
        (seconds(3), 3)
    );
    assert_eq!(pool.connect_budget, seconds(10));
    assert_eq!(
        (pool.wait.size, pool.wait.timeout, pool.wait.on_fin),
        (1024, seconds(5), OnFin::Keep)
    );
    assert_eq!(
        (pool.idle_timeout, pool.half_close_timeout),
        (None, seconds(600))
    );
    assert_eq!(
        (pool.max_lifetime, pool.user_timeout, pool.keepalive),
        (None, None, keepalive)
    );
    assert_eq!((pool.on_down, pool.on_drain), (OnLoss::Keep, OnLoss::Keep));
    let tiers = TierPlan {
        min_eligible: 1,
        mode: TierMode::Takeover,
        failback_after: seconds(10),
        fail_open: 0,
        slow_start: None,
    };
    assert_eq!(pool.tiers, tiers);
    assert_eq!(pool.on_role_change, OnLoss::AT_ONCE);
    assert_eq!(
        pool.health,
        HealthPlan::Check(CheckPlan {
            kind: CheckKind::Tcp,
            interval: seconds(2),
            fast_interval: Duration::from_millis(500),
            timeout: seconds(1),
            rise: 2,
            fall: 3,
            port: None,
        })
    );
    let backend = &pool.backends[0];
    assert_eq!(backend.name, "127.0.0.1:1");
    assert_eq!((backend.weight, backend.max_connections), (100, None));
    assert_eq!(backend.tier, 0);
}

#[test]
fn values_that_are_right_arrive() {
    let plan = fine(&text(
        "workers = 3\npin = \"off\"\nmax_sessions = 5000\naccess_log = \"/var/log/r.log\"\naccess_log_format = \"json\"\n\
         spin = \"50us\"",
        "bind = \"\"\nsocket = \"/run/r.sock\"",
        "max_connections = 7\nkeepalive = { idle = \"0s\" }\nuser_timeout = \"20s\"\nfreebind = true",
        "algorithm = \"source-hash\"\nhash_key = \"address-port\"\nhash_seed = 9\nsource = [\"127.0.0.2\", \"::1\"]\n\
         wait = { size = 0 }\non_down = \"close\"\non_drain = \"close over 10s\"\nhealth = { kind = \"none\" }\n\
         idle_timeout = \"1h 30m\"\nmin_eligible = 2\ntier_mode = \"join\"\nfailback_after = \"0s\"\nfail_open = 30\n\
         slow_start = \"20s\"",
        "name = \"b\"\nweight = 0\nmax_connections = 100\ntier = 15",
    ));
    assert_eq!(
        (
            plan.global.workers,
            plan.global.pin,
            plan.global.max_sessions
        ),
        (Some(3), false, Some(5000))
    );
    assert_eq!(
        plan.global.access_log,
        AccessLog::File(PathBuf::from("/var/log/r.log"))
    );
    assert_eq!(plan.global.spin, Spin::Fixed(Duration::from_micros(50)));
    assert_eq!(plan.admin.bind, None);
    assert_eq!(plan.admin.socket, Some(PathBuf::from("/run/r.sock")));
    let listener = &plan.listeners[0];
    assert_eq!(
        (
            listener.max_connections,
            listener.keepalive,
            listener.freebind
        ),
        (Some(7), None, true)
    );
    assert_eq!(listener.user_timeout, Some(Duration::from_secs(20)));
    let pool = &plan.pools[0];
    assert_eq!(
        (pool.algorithm, pool.hash_key, pool.hash_seed),
        (Algorithm::SourceHash, HashKey::AddressPort, 9)
    );
    let sources: [IpAddr; 2] = ["127.0.0.2".parse().unwrap(), "::1".parse().unwrap()];
    assert_eq!(pool.source, sources);
    assert_eq!(pool.wait.size, 0);
    let tiers = TierPlan {
        min_eligible: 2,
        mode: TierMode::Join,
        failback_after: Duration::ZERO,
        fail_open: 30,
        slow_start: Some(Duration::from_secs(20)),
    };
    assert_eq!((pool.tiers, pool.backends[0].tier), (tiers, 15));
    assert_eq!(
        pool.on_down,
        OnLoss::Close {
            over: Duration::ZERO
        }
    );
    assert_eq!(
        pool.on_drain,
        OnLoss::Close {
            over: Duration::from_secs(10)
        }
    );
    assert_eq!(pool.health, HealthPlan::None);
    assert_eq!(pool.idle_timeout, Some(Duration::from_secs(5400)));
    let backend = &pool.backends[0];
    assert_eq!(
        (
            backend.name.as_str(),
            backend.weight,
            backend.max_connections
        ),
        ("b", 0, Some(100))
    );
    assert_eq!(
        fine(&with(Part::Global, "spin = \"auto\"")).global.spin,
        Spin::Auto
    );
}

#[test]
fn binds_of_every_form() {
    let plan = fine(&fine_text().replace(
        "\"127.0.0.1:7000\"",
        "[\"0.0.0.0:7000-7010\", \"[::]:5433\", \"unix:/run/x.sock\", \"127.0.0.1:7005\", \"127.0.0.1:0\", \"127.0.0.1:0\"]",
    ));
    let shown: Vec<String> = plan.listeners[0]
        .binds
        .iter()
        .map(Address::to_string)
        .collect();
    assert_eq!(shown.len(), 16);
    assert_eq!(
        (shown[0].as_str(), shown[10].as_str()),
        ("0.0.0.0:7000", "0.0.0.0:7010")
    );
    assert_eq!(
        shown[11..],
        [
            "[::]:5433",
            "unix:/run/x.sock",
            "127.0.0.1:7005",
            "127.0.0.1:0",
            "127.0.0.1:0"
        ]
    );
    let long = format!("unix:/{}", "x".repeat(107));
    for wrong in [
        ":80",
        "*:80",
        "80",
        "localhost:80",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:+80",
        "::1:80",
        "127.0.0.1:9-8",
        "127.0.0.1:0-5",
        "127.0.0.1:1-2-3",
        "unix:run/x",
        "unix:",
        "unix:/",
        "",
        long.as_str(),
    ] {
        let said = said(&fine_text().replace("127.0.0.1:7000", wrong));
        let beginning = format!("c.toml:7: listener.bind: found {wrong:?}");
        assert!(
            said.starts_with(&beginning[..beginning.len().min(80)]),
            "{said}"
        );
        assert!(
            said.contains("; allowed: IP:PORT, IP:FIRST-LAST or unix:/PATH"),
            "{said}"
        );
    }
    // As many sockets as there are identities, and not one more, however few lines ask for them.
    let too_many = fine_text().replace("\"127.0.0.1:7000\"", "[\"127.0.0.1:10000-60000\"]");
    assert_eq!(
        said(&too_many),
        "c.toml: listener.bind: found 50001 addresses in all; allowed: at most 32767"
    );
}

#[test]
fn backend_addresses_of_every_form() {
    let inet =
        |text: &str| BackendAddress::Fixed(Address::Inet(text.parse::<SocketAddr>().unwrap()));
    let name = |host: &str, port| BackendAddress::Name {
        host: host.to_owned(),
        port,
    };
    let at_listener = |host, offset| BackendAddress::ListenerPort { host, offset };
    let right = [
        ("10.0.0.1:5432", inet("10.0.0.1:5432")),
        ("[2001:db8::1]:5432", inet("[2001:db8::1]:5432")),
        ("db1.example.com:5432", name("db1.example.com", 5432)),
        ("my_db-1:1", name("my_db-1", 1)),
        (
            "unix:/run/pg/.s.PGSQL.5432",
            BackendAddress::Fixed(Address::Unix("/run/pg/.s.PGSQL.5432".into())),
        ),
        (
            "10.0.0.1:+0",
            at_listener(Host::Ip("10.0.0.1".parse().unwrap()), 0),
        ),
        (
            "[::1]:+10",
            at_listener(Host::Ip("::1".parse().unwrap()), 10),
        ),
        ("db1:+7", at_listener(Host::Name("db1".to_owned()), 7)),
    ];
    for (text, address) in right {
        assert_eq!(backend_address_of(text), Some(address), "{text}");
    }
    for wrong in [
        "",
        ":1",
        "db1",
        "db1:",
        "db1:0",
        "db1:65536",
        "db1:-1",
        "db1:++1",
        "db1:+",
        "10.0.0.256:1",
        "10.0.0:1",
        "::1:5",
        "a..b:1",
        "-a:1",
        "a b:1",
        "a/b:1",
        "unix:x",
        "http://a:1",
        "[db1]:1",
        "ü:1",
    ] {
        assert_eq!(backend_address_of(wrong), None, "{wrong}");
    }
}

fn check_of(health: &str) -> CheckKind {
    let line = format!("health = {{ {health} }}");
    let plan = fine(&with(Part::Pool, &line));
    let check = plan.pools[0].health.check();
    check.expect("a check").kind.clone()
}

#[test]
fn each_kind_of_check_reads_its_keys() {
    let said = |text: &[u8]| Said(text.to_vec());
    let dialogue = "kind = \"send-expect\", step = [{ expect_regex = \"^220 \" }, { send = \"QUIT\\r\\n\", expect = \"hex:323231\" }]";
    let CheckKind::SendExpect(steps) = check_of(dialogue) else {
        panic!("another kind");
    };
    assert!(matches!(&steps[0].expect, Some(Expect::Pattern(p)) if p.0.as_str() == "^220 "));
    assert_eq!(steps[0].send, said(b""));
    assert_eq!(steps[1].send, said(b"QUIT\r\n"));
    assert_eq!(steps[1].expect, Some(Expect::Bytes(said(b"221"))));

    let CheckKind::Http(http) = check_of("kind = \"http\"") else {
        panic!("another kind");
    };
    assert_eq!(
        (http.method, &*http.path, http.host),
        ("HEAD", "/health", None)
    );
    assert_eq!(http.status, [(200, 399)]);

    let dns = check_of("kind = \"dns\", query = \"example.com. AAAA\"");
    let name = "example.com".to_owned();
    assert_eq!(dns, CheckKind::Dns(DnsPlan { name, record: 28 }));

    let udp = check_of("kind = \"udp\", send = \"hex:ff\"");
    let (send, expect) = (said(b"\xff"), None);
    assert_eq!(udp, CheckKind::Udp(UdpPlan { send, expect }));
}

/// A pool that asks for a role waits for a failover, and gives up the sessions of a primary that is gone.
#[test]
fn a_role_changes_what_is_default() {
    let text = |lines: &str, health: &str| {
        format!(
            "[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:7000\"\npool = \"p\"\n[[pool]]\nname = \"p\"\n{lines}\n\
             [[pool.backend]]\naddress = \"127.0.0.1:1\"\n[pool.health]\n{health}\n"
        )
    };
    let pool = |lines: &str, health: &str| fine(&text(lines, health)).pools.remove(0);
    let seconds = Duration::from_secs;
    let primary = pool("", "kind = \"postgres\"\nuser = \"u\"\nrole = \"primary\"");
    assert_eq!(primary.health.role(), Some(Role::Primary));
    assert_eq!(
        (
            primary.on_down,
            primary.on_role_change,
            primary.wait.timeout
        ),
        (OnLoss::AT_ONCE, OnLoss::AT_ONCE, seconds(30))
    );
    let replica = pool("", "kind = \"mysql\"\nuser = \"u\"\nrole = \"replica\"");
    assert_eq!(
        (replica.on_down, replica.wait.timeout),
        (OnLoss::Keep, seconds(30))
    );
    let any = pool("", "kind = \"redis\"\nrole = \"any\"");
    assert_eq!((any.on_down, any.wait.timeout), (OnLoss::Keep, seconds(5)));
    let told = pool(
        "wait = { timeout = \"7s\" }\non_down = \"keep\"\non_role_change = \"close over 3s\"",
        "kind = \"redis\"\nrole = \"primary\"",
    );
    assert_eq!(
        (told.on_down, told.on_role_change, told.wait.timeout),
        (OnLoss::Keep, OnLoss::Close { over: seconds(3) }, seconds(7))
    );
}

#[test]
fn a_password_is_read_at_load_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cret-of-ours\n").unwrap();
    let text = format!(
        "kind = \"redis\", user = \"probe\", password_file = \"{}\", database = \"2\", role = \"any\"",
        file.display()
    );
    let CheckKind::Redis(login) = check_of(&text) else {
        panic!("another kind");
    };
    assert_eq!(login.user.as_deref(), Some("probe"));
    assert_eq!(login.database.as_deref(), Some("2"));
    assert_eq!(login.role, None);
    let password = login.password.as_ref().unwrap();
    assert_eq!(password.bytes(), b"s3cret-of-ours");
    // Whoever prints a plan prints no password.
    assert!(!format!("{login:#?}").contains("s3cret"));
}

#[test]
fn a_check_goes_to_the_port_that_follows() {
    let port = |pool: &str, address: &str| {
        fine(&with(Part::Pool, pool).replace("127.0.0.1:1\"", &format!("{address}\"")))
            .check_port(0, 0)
    };
    assert_eq!(port("", "127.0.0.1:5"), Some(5));
    assert_eq!(port("", "db1:6"), Some(6));
    assert_eq!(port("health = { port = 80 }", "db1:6"), Some(80));
    assert_eq!(port("", "127.0.0.1:+3"), Some(7003));
    assert_eq!(port("", "unix:/run/b"), None);
}

#[test]
fn a_change_of_what_is_fixed_is_named() {
    let before = fine(&fine_text());
    let after = fine(&with(
        Part::Global,
        "workers = 2\nmax_sessions = 9\nspin = \"auto\"",
    ));
    assert_eq!(
        before.fixed_changes(&after),
        ["global.workers", "global.max_sessions"]
    );
    let after = fine(&with(Part::Admin, "socket = \"/run/r.sock\""));
    assert_eq!(before.fixed_changes(&after), ["admin.socket"]);
    assert!(before.fixed_changes(&before).is_empty());
}

/// The example shows every key that this version takes, and nothing but defaults: without its values it means the same.
#[test]
fn the_example_is_valid_and_shows_the_defaults() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");
    let example = load(path.as_ref()).unwrap();
    let bare = fine(
        "[[listener]]\nname = \"postgres\"\nbind = \"127.0.0.1:5433\"\npool = \"pg\"\n[[pool]]\nname = \"pg\"\n\
         [[pool.backend]]\nname = \"pg1\"\naddress = \"127.0.0.1:5432\"\n[[pool.backend]]\nname = \"pg2\"\n\
         address = \"127.0.0.1:5434\"\n",
    );
    assert_eq!(example, bare);
    let written = std::fs::read_to_string(path).unwrap();
    for key in [
        "workers",
        "pin",
        "max_sessions",
        "shutdown_grace",
        "shutdown_delay",
        "upgrade_grace",
        "access_log",
        "access_log_format",
        "spin",
        "bind",
        "socket",
        "protocol",
        "pool",
        "freebind",
        "max_connections",
        "keepalive",
        "user_timeout",
        "backlog",
        "algorithm",
        "hash_key",
        "hash_seed",
        "source",
        "connect_timeout",
        "connect_attempts",
        "connect_budget",
        "wait",
        "idle_timeout",
        "half_close_timeout",
        "max_lifetime",
        "on_down",
        "on_drain",
        "min_eligible",
        "tier_mode",
        "failback_after",
        "fail_open",
        "slow_start",
        "tier",
        "on_role_change",
        "kind",
        "interval",
        "fast_interval",
        "timeout",
        "rise",
        "fall",
        "port",
        "name",
        "address",
        "weight",
    ] {
        assert!(
            written.contains(&format!("\n{key} = ")),
            "the example lacks {key}"
        );
    }
}

#[test]
fn limits_arrive_as_rates_and_networks() {
    let listener = "connection_rate = \"1000/s burst 2000\"\nsource_connection_rate = \"10/s\"\nsource_max_connections = 7\n\
                    allow = [\"10.1.2.3/8\", \"2001:db8::/32\", \"192.0.2.1\"]\ndeny = [\"10.9.0.0/16\"]";
    let plan = fine(&text(
        "",
        "",
        listener,
        "connect_rate = \"50/s burst 5\"",
        "",
    ));
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    assert_eq!(
        plan.listeners[0].limits,
        LimitsPlan {
            rate: rate(1000, 2000),
            source_connections: Some(7),
            source_rate: rate(10, 10),
            allow: networks(&["10.1.2.3/8", "2001:db8::/32", "192.0.2.1/32"]),
            deny: networks(&["10.9.0.0/16"]),
        }
    );
    assert_eq!(plan.pools[0].connect_rate, rate(50, 5));
    // "" and 0 are no limit.
    let none = "connection_rate = \"\"\nsource_connection_rate = \"\"\nsource_max_connections = 0\nallow = []\ndeny = []";
    let plan = fine(&text("", "", none, "connect_rate = \"\"", ""));
    assert_eq!(plan, fine(&fine_text()));
}
