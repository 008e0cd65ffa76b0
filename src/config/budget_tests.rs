//! The sums of `budget`, each against figures worked out by hand.

use super::*;
use crate::config::parse;

const GIB: u64 = 1 << 30;

fn machine(descriptors: u64) -> Machine {
    Machine {
        descriptors,
        workers: 2,
        memory_bytes: 64 * GIB,
        locked_bytes: 0,
        locked_bytes_max: None,
        pipes: 256,
        pipe_bytes: 512 * 1024,
        pipe_pages: None,
        local_ports: (32_768, 60_999),
        stored: None,
    }
}

#[test]
fn sockets_that_the_service_manager_does_not_keep_are_a_warning() {
    let plan = plan("max_sessions = 10", "");
    let stored = |stored| {
        let machine = Machine {
            stored,
            ..machine(20_000)
        };
        budget(&plan, &machine).warnings()
    };
    // Two workers with ten ports each, and one unix socket.
    assert!(stored(None).is_empty());
    assert!(stored(Some(21)).is_empty());
    assert_eq!(
        stored(Some(20)),
        [
            "the service manager's descriptor store: 21 needed, 20 available: a crash would lose the clients in the queues of \
             the others; FileDescriptorStoreMax=21 in the unit keeps all"
        ]
    );
}

#[test]
fn the_whole_budget_is_a_line() {
    let line = budget(&plan("max_sessions = 10", ""), &machine(20_000)).line();
    assert_eq!(
        line,
        "descriptors: 875 needed, 20000 available; memory: 160 KiB needed, 64 GiB available; locked memory: 0 bytes needed, \
         no limit; pipes: 128 MiB needed, no limit; local ports towards p/127.0.0.1:1: 10 needed at most, 28232 available"
    );
}

fn plan(global: &str, pool: &str) -> Plan {
    let text = format!(
        "[global]\n{global}\n[[listener]]\nname = \"l\"\nbind = [\"127.0.0.1:7000-7009\", \"unix:/run/l.sock\"]\npool = \"p\"\n\
         [[pool]]\nname = \"p\"\n{pool}\n[[pool.backend]]\naddress = \"127.0.0.1:1\"\n[[pool.backend]]\n\
         address = \"unix:/run/b.sock\"\n"
    );
    parse(&text, "test.toml", &|_| None).unwrap()
}

/// 192 of the process, 2 × 64 of the workers, 2 × 256 of pipes, 2 × 10 + 1 listening, 2 checks.
const FIXED: u64 = 192 + 128 + 512 + 21 + 2;

#[test]
fn sessions_are_what_descriptors_carry() {
    let budget = budget(&plan("", ""), &machine(20_000));
    assert_eq!(u64::from(budget.sessions_max), (20_000 - FIXED) / 2);
    assert_eq!(budget.decided_by, DecidedBy::Descriptors);
    assert!(budget.shortages().is_empty());
    assert_eq!(budget.rows[0].needed, FIXED + 2 * ((20_000 - FIXED) / 2));
}

#[test]
fn sessions_are_bounded_by_the_ceiling_and_by_memory() {
    let plenty = machine(4_000_000);
    let sums = budget(&plan("", ""), &plenty);
    assert_eq!(
        (sums.sessions_max, sums.decided_by),
        (262_144, DecidedBy::Ceiling)
    );
    let small = Machine {
        memory_bytes: GIB,
        ..plenty
    };
    let sums = budget(&plan("", ""), &small);
    assert_eq!(
        (sums.sessions_max, sums.decided_by),
        (32_768, DecidedBy::Memory)
    );
}

#[test]
fn a_wish_beyond_the_descriptors_is_a_shortage_with_its_remedy() {
    let sums = budget(&plan("max_sessions = 10000", ""), &machine(20_000));
    assert_eq!(sums.sessions_max, 10_000);
    let needed = FIXED + 20_000;
    assert_eq!(
        sums.shortages(),
        [format!(
            "descriptors: {needed} needed, 20000 available: raise LimitNOFILE= in the unit (ulimit -n in a shell) or \
             lower global.max_sessions"
        )]
    );
}

#[test]
fn too_few_descriptors_for_a_single_session_are_a_shortage() {
    let sums = budget(&plan("", ""), &machine(FIXED + 1));
    assert_eq!(sums.sessions_max, 0);
    assert_eq!(sums.shortages().len(), 1);
    let sums = budget(&plan("", ""), &machine(FIXED + 2));
    assert_eq!(sums.sessions_max, 1);
    assert!(sums.shortages().is_empty());
    assert_eq!(budget(&plan("", ""), &machine(3)).sessions_max, 0);
}

#[test]
fn locked_memory_runs_out() {
    let limited = Machine {
        locked_bytes: 32 << 20,
        locked_bytes_max: Some(8 << 20),
        ..machine(20_000)
    };
    assert_eq!(
        budget(&plan("", ""), &limited).shortages(),
        [
            "locked memory: 32 MiB needed, 8192 KiB available: raise LimitMEMLOCK= in the unit (ulimit -l in a shell)"
        ]
    );
}

#[test]
fn small_pipes_are_a_warning_with_the_number_that_suffices() {
    let limited = Machine {
        pipe_pages: Some(16_384),
        ..machine(20_000)
    };
    let sums = budget(&plan("", ""), &limited);
    assert_eq!(sums.shortages(), Vec::<String>::new());
    assert_eq!(
        sums.warnings(),
        [
            "pipes: 128 MiB needed, 64 MiB available: when many streams flow at once, some get a small pipe; sysctl \
             fs.pipe-user-pages-soft=32768 has room for all"
        ]
    );
}

#[test]
fn local_ports_are_counted_per_backend_and_source() {
    let many = machine(200_000);
    let sums = budget(&plan("", ""), &many);
    // The unix socket takes none.
    assert_eq!(sums.ports.len(), 1);
    assert_eq!(sums.ports[0].available, 28_232);
    assert_eq!(sums.warnings().len(), 1);
    assert!(sums.warnings()[0].starts_with("backend p/127.0.0.1:1 may get "));
    let sources = "source = [\"127.0.0.1\", \"127.0.0.2\", \"127.0.0.3\", \"127.0.0.4\", \"::1\"]";
    let sums = budget(&plan("", sources), &many);
    assert_eq!(sums.ports[0].available, 4 * 28_232);
    assert!(sums.warnings().is_empty());
}

#[test]
fn the_printed_lines() {
    let sums = budget(&plan("max_sessions = 1000", ""), &machine(20_000));
    assert_eq!(
        sums.to_string(),
        format!(
            "sessions: at most 1000 (global.max_sessions)\n\
             descriptors: {} needed, 20000 available\n\
             memory: 16 MiB needed, 64 GiB available\n\
             locked memory: 0 bytes needed, no limit\n\
             pipes: 128 MiB needed, no limit\n\
             local ports towards p/127.0.0.1:1: 1000 needed at most, 28232 available\n",
            FIXED + 2000
        )
    );
}

/// Of datagrams only, or beside a listener of connections.
fn flow_plan(lines: &str, udp: &str, beside: bool) -> Plan {
    let protocol = "protocol = \"udp\"\npool = \"p\"\n";
    let tcp = "[[listener]]\nname = \"t\"\nbind = \"127.0.0.1:7001\"\npool = \"p\"\n";
    let text = format!(
        "[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:7000\"\n{protocol}{}[[pool]]\nname = \"p\"\n{lines}\n[pool.udp]\n{udp}\n\
         [[pool.backend]]\naddress = \"127.0.0.1:1\"\n",
        if beside { tcp } else { "" }
    );
    parse(&text, "test.toml", &|_| None).unwrap()
}

#[test]
fn a_flow_has_room_for_its_way_to_a_successor() {
    // 192 of the process, 2 × 64 of the workers, 2 × 256 of pipes, 2 listening for each address, 1 check.
    let fixed = |addresses: u64| 192 + 128 + 512 + 2 * addresses + 1;
    let only_flows = budget(&flow_plan("", "", false), &machine(20_000));
    assert_eq!(u64::from(only_flows.sessions_max), (20_000 - fixed(1)) / 2);
    let both = budget(&flow_plan("", "", true), &machine(20_000));
    assert_eq!(u64::from(both.sessions_max), (20_000 - fixed(2)) / 2);
}

#[test]
fn what_bounds_the_flows_of_a_pool_is_said() {
    let line = |plan: &Plan, descriptors| {
        let sums = budget(plan, &machine(descriptors));
        let said = sums.flows[0].to_string();
        assert!(sums.to_string().contains(&format!("\n{said}\n")), "{sums}");
        assert!(sums.line().ends_with(&said), "{}", sums.line());
        said
    };
    let plain = flow_plan("", "", false);
    assert_eq!(
        line(&plain, 10_000),
        "flows of p: at most 4582 (what descriptors carry)"
    );
    assert_eq!(
        line(&plain, 100_000),
        "flows of p: at most 28232 (what local ports carry)"
    );
    let sources = flow_plan("source = [\"127.0.0.1\", \"127.0.0.2\"]", "", false);
    assert_eq!(
        line(&sources, 130_000),
        "flows of p: at most 56464 (what local ports carry)"
    );
    let few = flow_plan("", "max_flows = 50", true);
    assert_eq!(
        line(&few, 100_000),
        "flows of p: at most 50 (udp.max_flows)"
    );
    assert!(budget(&plan("", ""), &machine(20_000)).flows.is_empty());
}
