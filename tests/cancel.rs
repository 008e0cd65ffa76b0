//! `cancel = "postgres"`: a query is cancelled through the balancer whichever server runs it, a source has ten requests a
//! second, and everybody else is carried as if there were no cancelling.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Instant;

use support::backends::Backend;
use support::ringway::{Ringway, Setup, listener, pool};
use support::servers::{Postgres, psql};
use support::wait::{seconds, until};
use support::{net, process};

fn cancels(ringway: &Ringway, result: &str) -> f64 {
    ringway
        .metrics()
        .sum("ringway_cancels_total", &[("result", result)])
}

/// A cancel request that no server knows.
const REQUEST: [u8; 16] = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2];

#[test]
fn a_query_is_cancelled_whichever_server_runs_it() {
    let servers = [Postgres::start(), Postgres::start()];
    let address = net::free_address();
    let lines = "algorithm = \"round-robin\"\ncancel = \"postgres\"";
    let backends = [("one", servers[0].address), ("two", servers[1].address)];
    let body = listener("main", address, "pg") + &pool("pg", lines, &backends);
    let ringway = Setup::new(body).workers(2).start();
    // Eight queries over two servers; each client's own cancel may go to either.
    let mut clients: Vec<_> = (0..8)
        .map(|_| {
            let mut query = psql(address, "select pg_sleep(120)");
            query
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            query.spawn().unwrap()
        })
        .collect();
    for server in &servers {
        until(seconds(30), "four queries run on each", || {
            let count = "select count(*) from pg_stat_activity where query like '%pg_sleep%' and pid <> pg_backend_pid() \
                         and state = 'active'";
            Postgres::query(server.address, count).trim() == "4"
        });
    }
    let began = Instant::now();
    for client in &mut clients {
        // psql's answer to an interrupt is a cancel request on a new connection.
        process::signal(client.id(), "INT");
        let status = process::wait_exit(client, seconds(60)).expect("the query is cancelled");
        let mut said = String::new();
        client
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert!(!status.success());
        assert!(
            said.contains("canceling statement due to user request"),
            "{said}"
        );
    }
    assert!(began.elapsed() < seconds(60), "long before the queries end");
    until(seconds(10), "every request is counted", || {
        cancels(&ringway, "sent") == 8.0
    });
    // The balancer still serves.
    assert_eq!(Postgres::query(address, "select 1").trim(), "1");
    assert_eq!(cancels(&ringway, "failed"), 0.0);
}

#[test]
fn a_source_has_ten_requests_a_second_and_all_are_closed_plainly() {
    let backend = Backend::serve(|mut stream| {
        // As PostgreSQL: a cancel request is answered by closing.
        let mut bytes = [0; 16];
        stream.read_exact(&mut bytes)?;
        if bytes != REQUEST {
            stream.write_all(&bytes)?;
            let _ = stream.read(&mut bytes)?;
        }
        Ok(())
    });
    let address = net::free_address();
    let body = listener("main", address, "pg")
        + &pool("pg", "cancel = \"postgres\"", &[("only", backend.address)]);
    let ringway = Setup::new(body).start();
    // Without a session nobody needs to be told.
    let ask = |split: usize| {
        let mut stream = net::connect(address);
        stream.write_all(&REQUEST[..split]).unwrap();
        stream.write_all(&REQUEST[split..]).unwrap();
        let mut rest = Vec::new();
        stream
            .read_to_end(&mut rest)
            .expect("an end of stream, not a reset");
        assert!(rest.is_empty());
    };
    ask(16);
    assert_eq!(backend.accepted(), 0);
    let mut session = net::connect(address);
    session
        .write_all(b"\0\0\0\x10\0\x03\0\0user\0x\0\0")
        .unwrap();
    let mut echo = [0; 16];
    session.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"\0\0\0\x10\0\x03\0\0user\0x\0\0");
    for split in 1..16 {
        ask(split);
    }
    until(seconds(10), "every request is counted", || {
        cancels(&ringway, "sent") + cancels(&ringway, "limited") == 16.0
    });
    let sent = cancels(&ringway, "sent");
    assert_eq!(
        backend.accepted() as f64,
        sent,
        "one session, and one visit for each but the first"
    );
    // However slow the machine: ten at once, and ten in each second that has passed meanwhile.
    assert!(sent >= 10.0);
    let limited = ringway
        .metrics()
        .sum("ringway_session_ends_total", &[("end", "limited")]);
    assert_eq!(limited, cancels(&ringway, "limited"));
}

#[test]
fn strangers_and_silent_clients_are_carried_as_ever() {
    let backend = Backend::named("server");
    let address = net::free_address();
    let own = listener("main", address, "pg").replace("\n\n", "\npreface_timeout = \"300ms\"\n\n");
    let body = own + &pool("pg", "cancel = \"postgres\"", &[("only", backend.address)]);
    let _ringway = Setup::new(body).start();
    for first in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0, 0, 0, 8, 4, 210, 22, 47],
        &[0, 0, 0, 8, 4, 210, 22, 48],
        &[22, 3, 1, 2, 0, 1],
        b"",
    ] {
        let mut stream = net::connect(address);
        stream.write_all(first).unwrap();
        let mut answer = vec![0; 7 + first.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [&b"server\n"[..], first].concat());
    }
}
