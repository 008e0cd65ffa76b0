//! A real office that succeeds a process which the test plays at the other end of the link: what it counts, and what it
//! leaves as it is until that process has let go.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::parse;
use crate::handoff::Capacity;
use crate::ids::Address;
use crate::office::counting::{Counting, KEY_OF_PROCESS};
use crate::office::registry::BackendKey;
use crate::office::{Office, Setup, start};
use crate::sys::datagram::listen_udp;
use crate::sys::link;
use crate::sys::shares::Column;

use super::accounts::{key_of_backend, key_of_listener, key_of_pool};
use super::heir::Heritage;
use super::words::{Estate, FlowState, Going, Place, Report, Sockets, Word};

const PAUSE: Duration = Duration::from_millis(50);
const BACKEND: &str = "127.0.0.1:9";

fn column(number: usize) -> Column {
    Column::new(number).unwrap()
}

/// The process before: generation 2, with column 0.
struct Before {
    link: OwnedFd,
    reader: link::Reader,
    counting: Counting,
    udp: Sockets,
    /// Sockets, and what else the estate says of descriptors, in its order.
    sockets: Vec<Sockets>,
    descriptors: Vec<OwnedFd>,
    admin_socket: Option<std::path::PathBuf>,
    flows: Vec<FlowState>,
    elders: Vec<(Report, OwnedFd)>,
    theirs: Option<OwnedFd>,
}

fn keys() -> [String; 4] {
    let backend = BackendKey {
        pool: "main".to_owned(),
        name: "only".to_owned(),
        address: BACKEND.to_owned(),
    };
    [
        key_of_backend(&backend),
        key_of_listener("udp"),
        KEY_OF_PROCESS.to_owned(),
        key_of_pool("main"),
    ]
}

impl Before {
    fn new() -> Before {
        let (link, theirs) = link::pair().unwrap();
        link::set_waiting(link.as_fd(), true, Some(Duration::from_secs(5))).unwrap();
        let udp = listen_udp("127.0.0.1:0".parse().unwrap(), 1, false).unwrap();
        let address = socket2::SockRef::from(&udp[0]).local_addr().unwrap();
        let at = address.as_socket().unwrap();
        let sockets = Sockets {
            is_udp: true,
            address: Place::Inet(at),
            bound: Place::Inet(at),
            owner: None,
            of_unit: false,
            name: None,
            count: 1,
        };
        Before {
            link,
            reader: link::Reader::default(),
            counting: Counting::begin(column(0)),
            udp: sockets.clone(),
            sockets: vec![sockets],
            descriptors: udp,
            admin_socket: None,
            flows: Vec::new(),
            elders: Vec::new(),
            theirs: Some(theirs),
        }
    }

    /// A listening socket at a path.
    fn listens_at(&mut self, path: &Path) {
        let place = Place::from(&Address::Unix(path.to_owned()));
        self.sockets.push(Sockets {
            is_udp: false,
            address: place.clone(),
            bound: place,
            ..self.udp.clone()
        });
        self.descriptors
            .push(UnixListener::bind(path).unwrap().into());
    }

    fn answers_at(&mut self, path: &Path) {
        self.admin_socket = Some(path.to_owned());
        let listener = UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.descriptors.push(listener.into());
    }

    /// A flow that holds one unit of each limit.
    fn has_flow(&mut self, backend: &str) {
        let Place::Inet(at) = self.udp.address else {
            return;
        };
        for mut key in keys() {
            if key.starts_with("backend") {
                key = backend.to_owned();
            }
            self.counting.capacity(key).reserve_anyway();
        }
        let number = u16::try_from(self.flows.len()).unwrap();
        self.flows.push(FlowState {
            listener: "udp".to_owned(),
            at,
            client: ([127, 0, 0, 1], 20_000 + number).into(),
            local: None,
            pool: "main".to_owned(),
            backend: backend.to_owned(),
            holds: [true; 4],
            id: u64::from(number),
            hash: 1,
            opened_ns: 1,
            last_ns: 1_000_000_000,
            kill_ns: u64::MAX,
            kill_as: "idle".to_owned(),
            requests: 1,
            responses: 1,
            answered: true,
            attempts: 1,
            bytes: [1, 1],
            datagrams: [1, 1],
            announced: false,
        });
    }

    /// An older generation, with column 5; its end of its link.
    fn has_elder(&mut self) -> OwnedFd {
        let (own, its) = link::pair().unwrap();
        let report = Report {
            generation: 1,
            column: 5,
            ..Report::default()
        };
        self.elders.push((report, own));
        its
    }

    fn say(&self, word: &Word, descriptors: &[OwnedFd]) {
        link::send_all(self.link.as_fd(), &word.text(), descriptors).unwrap();
    }

    fn hear(&mut self) -> Word {
        let message = self.reader.wait(self.link.as_fd()).unwrap().unwrap();
        Word::read(&message.bytes).unwrap()
    }

    /// The office of generation 3, that serves. `shares`: it knows the lines that limits are counted on.
    async fn succeeded(&mut self, body: &str, shares: bool) -> Office {
        let lines = self.counting.bequest().filter(|_| shares);
        let lines = lines.map(|(file, places)| {
            self.descriptors.push(file);
            places
        });
        let estate = Estate {
            generation: 3,
            column: 1,
            now_ns: 2_000_000_000,
            sockets: std::mem::take(&mut self.sockets),
            admin: None,
            admin_socket: self.admin_socket.take(),
            lines,
            stored: Vec::new(),
            operator: String::new(),
            backends: Vec::new(),
            upgrades: 1,
        };
        let descriptors = std::mem::take(&mut self.descriptors);
        let heritage = Heritage::of(self.theirs.take().unwrap(), estate, descriptors).unwrap();
        // It reads them once it is ready.
        let sockets: Vec<OwnedFd> = self
            .flows
            .iter()
            .map(|_| {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.connect(BACKEND).unwrap();
                socket.into()
            })
            .collect();
        let flows = std::mem::take(&mut self.flows);
        self.say(&Word::Flows { worker: 0, flows }, &sockets);
        let (elders, links): (Vec<Report>, Vec<OwnedFd>) = self.elders.drain(..).unzip();
        let own = Report {
            generation: 2,
            column: 0,
            ..Report::default()
        };
        let going = Going {
            own,
            ended: BTreeMap::new(),
            elders,
        };
        self.say(&Word::Go(Box::new(going)), &links);
        let Place::Inet(at) = self.udp.address else {
            panic!("datagrams at a path");
        };
        let text = format!(
            "[global]\nworkers = 1\npin = \"off\"\nsandbox = \"off\"\nshutdown_grace = \"0s\"\n\
             [[listener]]\nname = \"udp\"\nbind = \"{at}\"\nprotocol = \"udp\"\npool = \"main\"\n\
             [[pool]]\nname = \"main\"\n[pool.health]\nkind = \"none\"\n\
             [[pool.backend]]\nname = \"only\"\naddress = \"{BACKEND}\"\n{body}"
        );
        let plan = parse(&text, "test", &|_| None).unwrap();
        let setup = Setup {
            plan,
            file: None,
            handed: Vec::new(),
            on_ready: None,
            orders: None,
            keeper: None,
            predecessor: None,
        };
        let office = start::start(setup, Some(heritage)).await.unwrap();
        // The line is written by a task of this thread.
        tokio::time::sleep(PAUSE).await;
        assert!(matches!(self.hear(), Word::Ready { .. }));
        assert!(matches!(self.hear(), Word::Serving));
        office
    }
}

/// No admin socket but the one that the test names.
fn admin_at(folder: &Path) -> String {
    let path = folder.join("admin.sock");
    format!("[admin]\nbind = \"\"\nsocket = \"{}\"\n", path.display())
}

async fn hears(office: &mut Office) {
    let (id, heard) = office.succession.next().await;
    office.on_heard(id, heard).await;
}

/// Used of each limit, by all processes that count on the same lines.
fn used(office: &Office) -> [u32; 4] {
    let of = |key: String| {
        let mut limits = office.registry.limits();
        let found = limits.find(|(own, _)| *own == key);
        found.map_or_else(|| office.board.process.used(), |(_, count)| count.used())
    };
    keys().map(of)
}

/// All counts of the old process, as it sees them.
fn counts(before: &mut Before) -> Vec<Capacity> {
    let all = keys().into_iter();
    all.map(|key| before.counting.capacity(key)).collect()
}

fn totals(counts: &[Capacity]) -> Vec<u32> {
    counts.iter().map(Capacity::used).collect()
}

#[tokio::test(flavor = "current_thread")]
async fn flows_of_a_process_that_counts_elsewhere_are_counted_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = Before::new();
    for _ in 0..3 {
        before.has_flow(&keys()[0]);
    }
    before.has_flow("backend\nmain\ngone\n127.0.0.1:10");
    let body = admin_at(folder.path());
    let mut office = before.succeeded(&body, false).await;
    assert_eq!(used(&office), [3; 4]);
    before.say(&Word::Yours, &[]);
    hears(&mut office).await;
    assert_eq!(used(&office), [3; 4]);
    // When they end, nothing is left and nothing is below zero.
    let board = Arc::clone(&office.board);
    let listener = Arc::clone(&office.world.listeners[0]);
    drop(before);
    office.leave().await.unwrap();
    assert_eq!((board.process.used(), listener.capacity.used()), (0, 0));
}

#[tokio::test(flavor = "current_thread")]
async fn what_flows_hold_changes_hands_once_whoever_else_ends_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = Before::new();
    before.has_flow(&keys()[0]);
    before.has_flow(&keys()[0]);
    let old = counts(&mut before);
    let elder = before.has_elder();
    let mut office = before.succeeded(&admin_at(folder.path()), true).await;
    assert_eq!(totals(&old), [2; 4]);
    // An older generation ends while the process before still holds the flows.
    drop(elder);
    hears(&mut office).await;
    assert_eq!(office.succession.elders.len(), 1);
    assert_eq!(totals(&old), [2; 4]);
    before.say(&Word::Yours, &[]);
    hears(&mut office).await;
    assert_eq!(totals(&old), [2; 4]);
    assert_eq!(used(&office), [2; 4]);
    drop(before);
    office.leave().await.unwrap();
    assert_eq!(totals(&old), [0; 4]);
}

/// Whether it crashes before it has let go, or when it has said so and done nothing else yet.
#[tokio::test(flavor = "current_thread")]
async fn flows_of_a_process_that_crashes_while_it_lets_go_are_counted_once() {
    for says_so in [false, true] {
        crashes(says_so).await;
    }
}

async fn crashes(says_so: bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut before = Before::new();
    before.has_flow(&keys()[0]);
    before.has_flow(&keys()[0]);
    // And one that finds no place here.
    before.has_flow("backend\nmain\ngone\n127.0.0.1:10");
    let old = counts(&mut before);
    // A session that it keeps.
    old[1].reserve_anyway();
    let mut office = before.succeeded(&admin_at(folder.path()), true).await;
    assert_eq!(totals(&old), [2, 3, 2, 2]);
    if says_so {
        before.say(&Word::Yours, &[]);
        hears(&mut office).await;
        assert!(office.succession.has_elders());
        assert_eq!(totals(&old), [2, 3, 2, 2]);
    }
    drop(before);
    hears(&mut office).await;
    assert!(!office.succession.has_elders());
    tokio::time::sleep(super::elders::CLOSED_WITHIN).await;
    office.forsake_departed();
    assert_eq!(totals(&old), [2; 4]);
    office.leave().await.unwrap();
    assert_eq!(totals(&old), [0; 4]);
}

/// The next one could not tell what is whose.
#[tokio::test(flavor = "current_thread")]
async fn an_upgrade_begins_when_the_process_before_has_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = Before::new();
    before.has_flow(&keys()[0]);
    let old = counts(&mut before);
    let mut office = before.succeeded(&admin_at(folder.path()), true).await;
    let (asker, mut answer) = tokio::sync::oneshot::channel();
    office.begin_upgrade(Some(asker));
    assert!(answer.try_recv().is_err(), "it has begun, or was refused");
    before.say(&Word::Yours, &[]);
    hears(&mut office).await;
    assert_eq!(old[0].used(), 1);
    let refused = answer.try_recv().expect("an answer");
    let refused = format!("{:?}", refused.unwrap_err());
    assert!(refused.contains("nobody to start another one"), "{refused}");
    drop(before);
    office.leave().await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn a_flow_without_a_place_is_the_old_process_s_again_if_this_one_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = Before::new();
    before.has_flow("backend\nmain\ngone\n127.0.0.1:10");
    let old = counts(&mut before);
    let office = before.succeeded(&admin_at(folder.path()), true).await;
    assert_eq!(totals(&old), [0, 0, 0, 0], "free while this one serves");
    // It ends before the process before has let go, which takes off what it held.
    before.counting.forsake(column(1));
    assert_eq!(totals(&old), [0, 1, 1, 1]);
    for count in &old[1..] {
        count.release();
    }
    assert_eq!(totals(&old), [0; 4]);
    drop(before);
    office.leave().await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn nothing_is_removed_before_the_process_before_has_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut before = Before::new();
    before.listens_at(&at("kept.sock"));
    before.listens_at(&at("dropped.sock"));
    before.answers_at(&at("admin.sock"));
    let kept = at("kept.sock");
    let body = format!(
        "[[listener]]\nname = \"kept\"\nbind = \"unix:{}\"\npool = \"main\"\n{}",
        kept.display(),
        admin_at(folder.path())
    );
    let there = || ["kept.sock", "dropped.sock", "admin.sock"].map(|name| at(name).exists());
    let mut office = before.succeeded(&body, true).await;
    assert_eq!(there(), [true; 3]);
    // Had it failed now, as late as that can be.
    office.binder.give_up();
    drop(office.socket.take());
    assert_eq!(there(), [true; 3]);
    before.say(&Word::Yours, &[]);
    hears(&mut office).await;
    assert_eq!(there(), [true, false, true]);
    drop(before);
    office.leave().await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn older_generations_hear_of_a_configuration_that_went_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = Before::new();
    let mut office = before.succeeded(&admin_at(folder.path()), true).await;
    before.say(&Word::Yours, &[]);
    hears(&mut office).await;
    let past = office.before_trial();
    let confirm = Some(Duration::from_secs(60));
    office.put_on_trial(confirm, None, Some(past), &["a limit".to_owned()]);
    office.world.listeners[0].capacity.set_limit(7);
    office.go_back("a test").await;
    tokio::time::sleep(PAUSE).await;
    assert!(matches!(before.hear(), Word::Operator { .. }));
    let Word::Limits { limits } = before.hear() else {
        panic!("no limits");
    };
    assert_eq!(limits[&keys()[1]], 0, "it is the one of the trial");
    drop(before);
    office.leave().await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn a_name_that_resolves_anew_is_no_step_of_a_hand_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = Before::new();
    let body = format!(
        "[[pool]]\nname = \"named\"\n[pool.health]\nkind = \"none\"\n\
         [[pool.backend]]\nname = \"x\"\naddress = \"localhost:9\"\n{}",
        admin_at(folder.path())
    );
    let mut office = before.succeeded(&body, true).await;
    let (own, _its) = link::pair().unwrap();
    let line = office.succession.open_line(own).unwrap();
    office.succession.attempt = Some(super::attempt::Attempt::gone(line));
    let generation = |office: &Office| office.board.view().snapshot.generation;
    let before_it = generation(&office);
    let looked = || [("localhost".to_owned(), Ok(vec![[127, 0, 0, 7].into()]))].into();
    office.take_lookups(looked()).await;
    assert_eq!(generation(&office), before_it);
    office.succession.attempt = None;
    office.take_lookups(looked()).await;
    assert_eq!(generation(&office), before_it + 1);
    drop(before);
    office.leave().await.unwrap();
}
