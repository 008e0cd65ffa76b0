//! The socket unit that comes with the package, under a systemd of the test's own: streams, datagrams and a path, served by a
//! process that was handed them, over a reload, an upgrade and a crash.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use super::container::Container;
use super::support::backends::{Backend, read_line};
use super::support::datagrams::{Echo, ask, client};
use super::support::ringway::{Setup, listener, pool};
use super::support::servers::is_root;
use super::support::wait::{seconds, until};
use super::support::{alone, net};
use super::{open, talk, unit_with, units};

const PATH: &str = "/run/front.sock";

struct Scene {
    container: Container,
    stream: SocketAddr,
    datagram: SocketAddr,
}

impl Scene {
    /// Each way in is served, and has been opened by systemd alone.
    #[track_caller]
    fn serves(&self, when: &str) {
        talk(&open(self.stream), when);
        let by_path = UnixStream::connect(self.container.path(PATH)).expect("its path");
        assert_eq!(read_line(&by_path).expect("a greeting"), "a", "{when}");
        let answer = ask(&client(self.datagram), when.as_bytes()).expect(when);
        assert_eq!(answer, when.as_bytes());
        assert_eq!(self.container.show("ActiveState"), "active", "{when}");
        assert_eq!(self.container.show("NFileDescriptorStore"), "0", "{when}");
    }
}

#[test]
fn sockets_of_a_unit_are_served_over_reload_upgrade_and_crash() {
    assert!(is_root(), "a container needs root: run the tests as root");
    let _alone = alone();
    let (backend, echo) = (Backend::named("a"), Echo::plain());
    let [stream, datagram] = [(); 2].map(|()| net::free_address());
    let udp = listener("udp", datagram, "udp").trim_end().to_owned() + "\nprotocol = \"udp\"\n\n";
    let body = listener("tcp", stream, "main")
        + &listener("unix", format!("unix:{PATH}"), "main")
        + &udp
        + &pool("main", "", &[("a", backend.address)])
        + &pool("udp", "", &[("e", echo.address)]);
    let ways = format!("ListenStream={stream}\nListenStream={PATH}\nListenDatagram={datagram}\n");
    let unit = fs::read_to_string(units().join("ringway.socket")).unwrap();
    let opened = unit
        .replace("ListenStream=0.0.0.0:5433\n", &ways)
        .replace("FileDescriptorName=postgres", "FileDescriptorName=front");
    assert!(opened.contains(&ways) && opened.contains("=front"));
    let scene = Scene {
        container: Container::boot_with_sockets(
            &opened,
            &unit_with("/ringway run -c /etc/ringway/config.toml"),
            &Setup::new(body).workers(1).text(),
        ),
        stream,
        datagram,
    };
    let show = |property: &str| scene.container.show(property);
    until(seconds(30), "the service is active", || {
        show("ActiveState") == "active"
    });
    scene.serves("as it was started");
    let pid = show("MainPID");
    scene.container.systemctl(&["reload", "ringway"]);
    scene.serves("reloaded");
    assert_eq!(show("MainPID"), pid);
    let held = open(stream);
    scene
        .container
        .systemctl(&["kill", "-s", "USR2", "--kill-who=main", "ringway"]);
    until(seconds(10), "another process is the main one", || {
        show("MainPID") != pid
    });
    until(seconds(10), "it speaks to systemd", || {
        show("StatusText") == "serving on 3 listeners"
    });
    scene.serves("upgraded");
    talk(&held, "the first process lives");
    scene
        .container
        .systemctl(&["kill", "-s", "KILL", "--kill-who=main", "ringway"]);
    until(seconds(10), "systemd counts the restart", || {
        show("NRestarts") == "1" && show("ActiveState") == "active"
    });
    scene.serves("started again");
    // Stopped, the next client starts it.
    scene.container.systemctl(&["stop", "ringway.service"]);
    talk(&open(stream), "started by its client");
    scene
        .container
        .systemctl(&["stop", "ringway.socket", "ringway.service"]);
    assert!(net::try_connect(stream).is_err(), "nobody listens");
}
