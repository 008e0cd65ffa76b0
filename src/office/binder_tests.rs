//! What becomes of sockets over reloads, by binding them.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use super::*;
use crate::config::parse;

fn plan(listeners: &[(&str, &str)]) -> Plan {
    let mut text =
        String::from("[[pool]]\nname = \"p\"\n[[pool.backend]]\naddress = \"127.0.0.1:1\"\n");
    for (name, bind) in listeners {
        text.push_str(&format!(
            "[[listener]]\nname = \"{name}\"\nbind = \"{bind}\"\npool = \"p\"\n"
        ));
    }
    parse(&text, "test", &|_| None).unwrap()
}

fn connects(address: &Address) -> bool {
    match address {
        Address::Inet(address) => TcpStream::connect(address).is_ok(),
        Address::Unix(path) => UnixStream::connect(path).is_ok(),
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_kept_address_keeps_its_socket_and_a_removed_one_closes() {
    let mut binder = Binder::new(2, Vec::new());
    let both = plan(&[("a", "127.0.0.1:0"), ("b", "127.0.0.1:0")]);
    let first = binder.prepare(&both).await.unwrap();
    let sockets = first.sockets.clone();
    binder.commit(first);
    let (a, b) = (&sockets[0][0], &sockets[1][0]);
    assert_eq!(a.descriptors.len(), 2, "one per worker");
    assert!(a.id != b.id && a.address != b.address);

    let second = binder
        .prepare(&plan(&[("b", "127.0.0.1:0")]))
        .await
        .unwrap();
    assert!(Arc::ptr_eq(&second.sockets[0][0], b));
    binder.commit(second);
    let gone = a.address.clone();
    drop(sockets);
    assert!(!connects(&gone));
    // Its id comes back only after a rest.
    binder.sweep(Nanos(0));
    assert!(binder.free.is_empty());
    binder.sweep(Nanos(REST_NS));
    assert_eq!(binder.free.len(), 1);
}

#[tokio::test(flavor = "current_thread")]
async fn a_plan_that_cannot_be_bound_leaves_nothing_bound() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let unix = format!("unix:{}", path.display());
    let mut binder = Binder::new(2, Vec::new());
    let failure = binder
        .prepare(&plan(&[("a", &unix), ("b", &address)]))
        .await;
    let sentence = failure.unwrap_err().to_string();
    assert!(
        sentence.contains("\"b\"") && sentence.contains(&address),
        "{sentence}"
    );
    assert!(sentence.contains("address in use"), "{sentence}");
    assert!(!path.exists());
    assert_eq!(binder.free.len() as u32, binder.next);
}

#[tokio::test(flavor = "current_thread")]
async fn an_address_that_is_just_being_given_up_is_waited_for() {
    let mut binder = Binder::new(1, Vec::new());
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let bind = format!("127.0.0.1:{port}");
    let with = plan(&[("a", &bind), ("b", "127.0.0.1:0")]);
    let first = binder.prepare(&with).await.unwrap();
    let held_by_worker = Arc::clone(&first.sockets[0][0]);
    binder.commit(first);
    let without = binder
        .prepare(&plan(&[("b", "127.0.0.1:0")]))
        .await
        .unwrap();
    binder.commit(without);
    let letting_go = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(30)).await;
        drop(held_by_worker);
    });
    let again = binder.prepare(&with).await.unwrap();
    assert!(connects(&again.sockets[0][0].address));
    letting_go.await.unwrap();
}

/// Flows keep the sockets of a removed listener open: it gets them back, and its number is nobody else's meanwhile.
#[tokio::test(flavor = "current_thread")]
async fn an_address_of_datagrams_gets_back_what_its_flows_keep_open() {
    let mut binder = Binder::new(2, Vec::new());
    let listens = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listens.local_addr().unwrap().to_string();
    let none = plan(&[("b", "127.0.0.1:0")]);
    let with_udp = |bind: &str, other: &str| {
        let text = format!(
            "[[pool]]\nname = \"p\"\n[[pool.backend]]\naddress = \"127.0.0.1:1\"\n\
             [[pool]]\nname = \"u\"\n[[pool.backend]]\naddress = \"127.0.0.1:1\"\n\
             [[listener]]\nname = \"u\"\nbind = \"{bind}\"\nprotocol = \"udp\"\npool = \"u\"\n\
             [[listener]]\nname = \"b\"\nbind = \"{other}\"\npool = \"p\"\n"
        );
        parse(&text, "test", &|_| None).unwrap()
    };
    let port = {
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let udp = with_udp(&port.to_string(), "127.0.0.1:0");
    let first = binder.prepare(&udp).await.unwrap();
    let kept = Arc::clone(&first.sockets[0][0]);
    binder.commit(first);
    let without = binder.prepare(&none).await.unwrap();
    binder.commit(without);
    let refused = binder.prepare(&with_udp(&port.to_string(), &taken)).await;
    assert!(refused.is_err());
    assert!(!binder.free.contains(&kept.id.0), "it is still in use");
    let again = binder.prepare(&udp).await.unwrap();
    assert!(Arc::ptr_eq(&again.sockets[0][0], &kept));
    binder.commit(again);
    assert!(!binder.rests(kept.id));
    // Let go of once more, and by everybody: then others are bound.
    let without = binder.prepare(&none).await.unwrap();
    binder.commit(without);
    drop(kept);
    let fresh = binder.prepare(&udp).await.unwrap();
    assert_eq!(fresh.sockets[0][0].descriptors.len(), 2);
    binder.commit(fresh);
}

#[tokio::test(flavor = "current_thread")]
async fn a_unix_sockets_file_goes_with_its_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let unix = format!("unix:{}", path.display());
    let mut binder = Binder::new(2, Vec::new());
    let prepared = binder.prepare(&plan(&[("a", &unix)])).await.unwrap();
    assert_eq!(prepared.sockets[0][0].descriptors.len(), 1, "shared");
    binder.commit(prepared);
    assert!(connects(&Address::Unix(path.clone())));
    binder.release_all();
    assert!(!path.exists());
}
