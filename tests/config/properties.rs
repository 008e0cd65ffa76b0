//! Properties of the configuration reader: no text makes it panic, and what it prints it reads again.

use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use ringway::config::{
    BackendAddress, Host, Rate, backend_address_of, duration_of, duration_text, parse, rate_of,
};
use ringway::ids::Address;

use super::{fine, fine_text};

/// Pieces that get far into the reader, with arbitrary text between them.
fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "[global]\n",
        "[admin]\n",
        "[[listener]]\n",
        "[[pool]]\n",
        "[[pool.backend]]\n",
        "[pool.health]\n",
        "name = ",
        "bind = ",
        "pool = ",
        "address = ",
        "spin = ",
        "wait = ",
        "keepalive = ",
        "source = ",
        "workers = ",
        "weight = ",
        "kind = ",
        "on_down = ",
        "\"p\"\n",
        "\"127.0.0.1:1-65535\"\n",
        "\"unix:/x\"\n",
        "\"[::1]:+0\"\n",
        "\"5s\"\n",
        "\"close over 9999999999y\"\n",
        "99999999999999999999999\n",
        "-0x1\n",
        "nan\n",
        "[]\n",
        "{}\n",
        "[[[]]]\n",
        "{ size = [] }\n",
        "\"${\"\n",
        "\"${A:-${B}}\"\n",
        "1979-05-27\n",
        "true\n",
        "\"\\u0000\"\n",
        "\"ü:1\"\n",
    ]);
    prop_oneof![
        8 => known.prop_map(str::to_owned),
        1 => "\\PC{0,12}",
        1 => any::<String>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(pieces in prop::collection::vec(piece(), 0..40)) {
        let text = pieces.concat();
        if let Err(error) = parse(&text, "c.toml", &|_| None) {
            prop_assert!(!error.faults.is_empty());
            prop_assert_eq!(error.to_string().lines().count(), error.faults.len());
        }
    }

    #[test]
    fn no_value_of_a_key_panics(value in any::<String>()) {
        let _ = (duration_of(&value), rate_of(&value), backend_address_of(&value));
    }

    #[test]
    fn durations_round_trip(nanoseconds in 0..10_u64.pow(18), coarse in prop::sample::select(vec![1, 1000, 10_u64.pow(6), 10_u64.pow(9), 60 * 10_u64.pow(9)])) {
        let duration = Duration::from_nanos(nanoseconds - nanoseconds % coarse);
        prop_assert_eq!(duration_of(&duration_text(duration)), Some(duration));
    }

    #[test]
    fn rates_round_trip(per_second in 1..=1_000_000_000_u32, burst in 1..=1_000_000_000_u32) {
        for burst in [burst, per_second] {
            let rate = Rate { per_second, burst };
            prop_assert_eq!(rate_of(&rate.to_string()), Some(rate));
        }
    }

    #[test]
    fn backend_addresses_round_trip(ip in any::<IpAddr>(), port in 1..=u16::MAX, offset in any::<u16>(), host in "[a-z][a-z0-9_]{0,9}(\\.[a-z]{1,5}){0,3}") {
        for address in [
            BackendAddress::Fixed(Address::Inet((ip, port).into())),
            BackendAddress::Name { host: host.clone(), port },
            BackendAddress::ListenerPort { host: Host::Ip(ip), offset },
            BackendAddress::ListenerPort { host: Host::Name(host.clone()), offset },
            BackendAddress::Fixed(Address::Unix(format!("/{host}").into())),
        ] {
            prop_assert_eq!(backend_address_of(&address.to_string()), Some(address));
        }
    }

    #[test]
    fn binds_round_trip(ip in any::<IpAddr>(), port in 10_000..=u16::MAX) {
        let address = Address::Inet((ip, port).into());
        let plan = fine(&fine_text().replace("127.0.0.1:7000", &address.to_string()));
        prop_assert_eq!(&plan.listeners[0].binds, &[address]);
    }
}
