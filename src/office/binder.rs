//! Binds listening sockets for a plan and keeps them over reloads: as long as an address stays, so does its socket with
//! everything in its accept queue, and its [`SocketId`].
//!
//! In two steps, so that a plan that cannot be bound changes nothing: [`Binder::prepare`] binds what is new, or adopts
//! what the service manager has handed over; [`Binder::commit`] lets go of what is gone. It must not know what a snapshot
//! is; the office's thread calls it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::config::{ListenerPlan, Plan, Protocol};
use crate::handoff::ListenSocket;
use crate::ids::{Address, Nanos, SocketId, millis};
use crate::sys;
use crate::sys::handed::Handed;
use crate::sys::listen::ListenOptions;

use super::bequest::{Bequest, Bequests};
use super::failure::Failure;
use super::inherited::{Adoption, Inherited, Source};
use super::store::Store;
use super::upgrade::Addresses;

/// Mode of a unix socket's file: whoever may enter its folder may connect, as with a loopback port.
const UNIX_MODE: u32 = 0o666;
/// How long an id rests after the socket was closed.
const REST_NS: u64 = millis(5_000);
/// How long to wait for workers to let go of an address that a reload gave up a moment ago.
const RELEASE: Duration = Duration::from_secs(1);

/// What makes a socket the same one as before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BindKey {
    pub is_udp: bool,
    /// As in the plan.
    pub address: Address,
    /// For port 0, which several listeners may ask for: whose it is, and the how manieth.
    pub owner: Option<(String, usize)>,
}

impl BindKey {
    fn new(listener: &ListenerPlan, place: usize) -> BindKey {
        let address = listener.binds[place].clone();
        let any_port = address.inet().is_some_and(|address| address.port() == 0);
        BindKey {
            is_udp: listener.protocol == Protocol::Udp,
            address,
            owner: any_port.then(|| (listener.name.clone(), place)),
        }
    }
}

/// An id whose socket is gone, or going.
#[derive(Debug)]
struct Resting {
    id: SocketId,
    key: BindKey,
    socket: Weak<ListenSocket>,
    address: Address,
    closed_at: Option<Nanos>,
}

#[derive(Debug)]
pub struct Binder {
    /// Sockets per internet address.
    workers: usize,
    held: BTreeMap<BindKey, Arc<ListenSocket>>,
    free: BTreeSet<u16>,
    next: u32,
    resting: Vec<Resting>,
    inherited: Inherited,
    bequests: Bequests,
    /// Addresses that a socket unit listens on, and whether for datagrams.
    of_unit: BTreeSet<(bool, Address)>,
    store: Store,
    /// Addresses that the store was asked to let go of a moment ago.
    given_back: Vec<Address>,
}

/// The sockets of a plan, bound but not yet taken over.
#[derive(Debug)]
pub struct Prepared {
    /// Per listener of the plan, in its order.
    pub sockets: Vec<Vec<Arc<ListenSocket>>>,
    keys: BTreeMap<BindKey, (Arc<ListenSocket>, ListenOptions)>,
}

/// The address as it came out, its sockets, and the path that goes with them.
pub type Bound = (Address, Vec<OwnedFd>, Option<PathBuf>);

impl Binder {
    #[must_use]
    pub fn new(workers: u16, handed: Vec<Handed>) -> Binder {
        let store = Store::new(handed.iter().map(|handed| handed.name.as_str()));
        Binder {
            inherited: Inherited::new(handed),
            bequests: Bequests::default(),
            of_unit: BTreeSet::new(),
            store,
            given_back: Vec::new(),
            workers: usize::from(workers),
            held: BTreeMap::new(),
            free: BTreeSet::new(),
            next: 0,
            resting: Vec::new(),
        }
    }

    /// The binder of a successor: what the process before has bound, and what the service manager's store has of it.
    #[must_use]
    pub fn after(
        workers: u16,
        bequests: Bequests,
        spare: Vec<Handed>,
        stored: &[String],
    ) -> Binder {
        Binder {
            bequests,
            store: Store::new(stored.iter().map(String::as_str)),
            ..Binder::new(workers, spare)
        }
    }

    /// Copies of everything bound, for a successor.
    ///
    /// # Errors
    /// The kernel's, when no descriptor is left.
    pub fn copies(&self) -> io::Result<(Vec<Bequest>, Vec<Handed>)> {
        let mut bound = Vec::with_capacity(self.held.len());
        for (key, socket) in &self.held {
            let copies = socket.descriptors.iter().map(OwnedFd::try_clone);
            bound.push(Bequest {
                key: key.clone(),
                bound: socket.address.clone(),
                of_unit: self.of_unit.contains(&(key.is_udp, key.address.clone())),
                descriptors: copies.collect::<io::Result<_>>()?,
            });
        }
        Ok((bound, self.inherited.copies()?))
    }

    /// Sockets for datagrams, by number.
    #[must_use]
    pub fn udp_addresses(&self) -> Addresses {
        let udp = self.held.iter().filter(|(key, _)| key.is_udp);
        let addresses = udp.filter_map(|(_, socket)| Some((socket.id, socket.address.inet()?)));
        addresses.collect()
    }

    #[must_use]
    pub fn stored(&self) -> Vec<String> {
        self.store.names()
    }

    /// The process before has let go: what it had bound is this process's alone.
    pub fn own(&mut self) {
        for bequest in self.bequests.own() {
            let key = bequest.key;
            self.give_back(key.is_udp, &key.address);
            if let Address::Unix(path) = &bequest.bound {
                remove_path(path);
            }
            log::info!(
                "the socket on {} is not wanted any more: closed",
                bequest.bound
            );
        }
    }

    /// A successor has everything: lets go of it without a trace.
    pub fn hand_over(&mut self) {
        self.held.clear();
        self.inherited = Inherited::default();
    }

    /// Sets the options of all sockets again: a successor that came to nothing may have set others.
    pub async fn set_options_again(&mut self, plan: &Plan) {
        if let Ok(prepared) = self.prepare(plan).await {
            self.commit(prepared);
        }
    }

    /// Binds what the plan has and is not bound yet. On an error nothing new stays bound.
    ///
    /// # Errors
    /// Names the listener, the address and what to do about it.
    pub async fn prepare(&mut self, plan: &Plan) -> Result<Prepared, Failure> {
        self.inherited.fit(plan)?;
        let mut prepared = Prepared {
            sockets: Vec::with_capacity(plan.listeners.len()),
            keys: BTreeMap::new(),
        };
        for listener in &plan.listeners {
            let options = listen_options(listener);
            let mut sockets = Vec::with_capacity(listener.binds.len());
            for place in 0..listener.binds.len() {
                let key = BindKey::new(listener, place);
                let known = self.held.get(&key).cloned();
                let socket = match known.or_else(|| self.kept_by_flows(&key)) {
                    Some(socket) => socket,
                    None => match self.bind(&key, &options).await {
                        Ok(socket) => socket,
                        Err(error) => {
                            self.abandon(prepared);
                            let own = self.own_on_port(&key.address);
                            return Err(refusal(listener, &key.address, &error, own));
                        }
                    },
                };
                sockets.push(Arc::clone(&socket));
                prepared.keys.insert(key, (socket, options));
            }
            prepared.sockets.push(sockets);
        }
        Ok(prepared)
    }

    /// Undoes a preparation: what was bound for it is closed again.
    pub fn abandon(&mut self, prepared: Prepared) {
        for (key, (socket, _)) in prepared.keys {
            if !self.held.contains_key(&key) {
                // What a crashed process left in the store is for the next start, and what is borrowed is another's.
                if !self.store.has(key.is_udp, &key.address) && !self.bequests.borrowed(&key) {
                    remove_file(&socket);
                }
                // Else no worker has seen it.
                if !self.rests(socket.id) {
                    self.free.insert(socket.id.0);
                }
            }
        }
    }

    /// Takes a preparation over: sets the options of kept sockets, lets go of those that are gone.
    pub fn commit(&mut self, prepared: Prepared) {
        self.given_back.clear();
        for (key, (socket, options)) in &prepared.keys {
            // A socket unit keeps its own.
            if !self.of_unit.contains(&(key.is_udp, key.address.clone())) {
                self.store.keep(key.is_udp, &key.address, socket);
            }
            if self.held.contains_key(key)
                && !key.is_udp
                && let Err(error) = apply(socket, options)
            {
                log::warn!("{}: options cannot be set: {error}", socket.address);
            }
        }
        let keys = prepared.keys.into_iter();
        let kept = keys.map(|(key, (socket, _))| (key, socket)).collect();
        let before = std::mem::replace(&mut self.held, kept);
        let held: BTreeSet<u16> = self.held.values().map(|socket| socket.id.0).collect();
        self.resting.retain(|resting| !held.contains(&resting.id.0));
        for (key, socket) in before {
            if !self.held.contains_key(&key) {
                self.let_go(&key, &socket);
            }
        }
    }

    /// After the first plan: what was handed over and is not in it is let go of, or said.
    pub fn sort_out(&mut self, plan: &Plan) {
        for name in self.inherited.left_over(plan) {
            self.store.forget_name(&name);
        }
    }

    /// Lets go of everything: the process stops accepting.
    pub fn release_all(&mut self) {
        for (key, socket) in std::mem::take(&mut self.held) {
            self.let_go(&key, &socket);
        }
    }

    /// The start failed: leaves nothing behind but what the store keeps for the next one.
    pub fn give_up(&mut self) {
        for (key, socket) in std::mem::take(&mut self.held) {
            if !self.store.has(key.is_udp, &key.address) && !self.bequests.borrowed(&key) {
                remove_file(&socket);
            }
        }
    }

    /// Frees the ids of sockets that were closed some time ago. Call it about once a second.
    pub fn sweep(&mut self, now: Nanos) {
        let free = &mut self.free;
        self.resting.retain_mut(|resting| {
            if resting.socket.strong_count() > 0 {
                return true;
            }
            let closed_at = *resting.closed_at.get_or_insert(now);
            let rested = now.since(closed_at) >= REST_NS;
            if rested {
                free.insert(resting.id.0);
            }
            !rested
        });
    }

    fn let_go(&mut self, key: &BindKey, socket: &Arc<ListenSocket>) {
        self.give_back(key.is_udp, &key.address);
        remove_file(socket);
        self.resting.push(Resting {
            id: socket.id,
            key: key.clone(),
            socket: Arc::downgrade(socket),
            address: socket.address.clone(),
            closed_at: None,
        });
    }

    /// Sockets for datagrams that a reload gave up and that flows still keep open: when the address comes back, they are its
    /// own again, under the same number. None can be bound beside them while the last flow lives.
    fn kept_by_flows(&self, key: &BindKey) -> Option<Arc<ListenSocket>> {
        let mut resting = self
            .resting
            .iter()
            .filter(|resting| key.is_udp && resting.key == *key);
        resting.find_map(|resting| resting.socket.upgrade())
    }

    fn rests(&self, id: SocketId) -> bool {
        self.resting.iter().any(|resting| resting.id == id)
    }

    /// Binds one address, waiting a little for our own workers if they still hold it from before.
    async fn bind(
        &mut self,
        key: &BindKey,
        options: &ListenOptions,
    ) -> io::Result<Arc<ListenSocket>> {
        let address = &key.address;
        let deadline = Instant::now() + RELEASE;
        loop {
            match self.bind_now(key, options) {
                Err(error)
                    if error.kind() == ErrorKind::AddrInUse
                        && self.is_being_released(address)
                        && Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// An address of our own with the same port, which may be why one cannot be bound.
    fn own_on_port(&self, address: &Address) -> Option<&Address> {
        let port = |address: &Address| address.inet().map(|address| address.port());
        let mut held = self.held.values().map(|socket| &socket.address);
        held.find(|own| port(own).is_some() && port(own) == port(address))
    }

    fn is_being_released(&self, address: &Address) -> bool {
        let port = |address: &Address| address.inet().map(|address| address.port());
        let clashes = |other: &Address| {
            other == address || port(address).is_some() && port(other) == port(address)
        };
        let mut resting = self.resting.iter();
        self.given_back.iter().any(clashes)
            || resting.any(|own| own.socket.strong_count() > 0 && clashes(&own.address))
    }

    fn bind_now(
        &mut self,
        key: &BindKey,
        options: &ListenOptions,
    ) -> io::Result<Arc<ListenSocket>> {
        let id = self.fresh_id()?;
        match self.adopt_or_open(key, options) {
            Ok((address, descriptors, unlink)) => Ok(Arc::new(ListenSocket {
                id,
                address,
                descriptors,
                unlink,
            })),
            Err(error) => {
                self.free.insert(id.0);
                Err(error)
            }
        }
    }

    fn adopt_or_open(&mut self, key: &BindKey, options: &ListenOptions) -> io::Result<Bound> {
        let (is_udp, address) = (key.is_udp, &key.address);
        if let Some((bound, of_unit)) = self.bequests.adopt(key, self.workers, options)? {
            if of_unit {
                self.of_unit.insert((is_udp, address.clone()));
            }
            return Ok(bound);
        }
        let adoption = self
            .inherited
            .adopt((is_udp, address), self.workers, options)?;
        match adoption {
            Adoption::Adopted {
                descriptors,
                source,
            } => {
                log::info!("{address}: taken over from the service manager");
                let path = match address {
                    Address::Unix(path) if source != Source::Unit => Some(path.clone()),
                    _ => None,
                };
                match source {
                    Source::Unit => drop(self.of_unit.insert((is_udp, address.clone()))),
                    Source::Store => {}
                    Source::ChangedStore => drop(self.store.forget(is_udp, address)),
                }
                Ok((address.clone(), descriptors, path))
            }
            Adoption::Useless => {
                self.give_back(is_udp, address);
                self.open(key, options)
            }
            Adoption::Nothing => self.open(key, options),
        }
    }

    /// Has the store close its copies, which happens a moment later: until then the address is in use.
    fn give_back(&mut self, is_udp: bool, address: &Address) {
        if self.store.forget(is_udp, address) {
            self.given_back.push(address.clone());
        }
    }

    fn open(&self, key: &BindKey, options: &ListenOptions) -> io::Result<Bound> {
        match &key.address {
            Address::Inet(inet) => {
                let descriptors = if key.is_udp {
                    sys::datagram::listen_udp(*inet, self.workers, options.freebind)
                } else {
                    sys::listen::listen_tcp(*inet, self.workers, options)
                }?;
                let first = descriptors.first().ok_or(ErrorKind::InvalidInput)?;
                let chosen = socket2::SockRef::from(first).local_addr()?;
                let address = Address::Inet(chosen.as_socket().unwrap_or(*inet));
                Ok((address, descriptors, None))
            }
            Address::Unix(path) => {
                let descriptor = sys::listen::listen_unix(path, options.backlog, UNIX_MODE)?;
                let address = key.address.clone();
                Ok((address, vec![descriptor], Some(path.clone())))
            }
        }
    }

    fn fresh_id(&mut self) -> io::Result<SocketId> {
        if let Some(id) = self.free.pop_first() {
            return Ok(SocketId(id));
        }
        let id = u16::try_from(self.next)
            .map_err(|_| io::Error::other("65536 addresses are bound already"))?;
        self.next += 1;
        Ok(SocketId(id))
    }
}

/// What accepted sockets inherit.
fn listen_options(listener: &ListenerPlan) -> ListenOptions {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let milliseconds = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    ListenOptions {
        backlog: listener.backlog,
        freebind: listener.freebind,
        keepalive: listener.keepalive.map(|keepalive| sys::Keepalive {
            idle_s: seconds(keepalive.idle),
            interval_s: seconds(keepalive.interval),
            count: keepalive.count,
        }),
        user_timeout_ms: listener.user_timeout.map_or(0, milliseconds),
    }
}

fn apply(socket: &ListenSocket, options: &ListenOptions) -> io::Result<()> {
    socket
        .descriptors
        .iter()
        .try_for_each(|descriptor| match socket.address {
            Address::Inet(_) => sys::listen::apply_listen_options(descriptor.as_fd(), options),
            Address::Unix(_) => {
                sys::listen::apply_unix_backlog(descriptor.as_fd(), options.backlog)
            }
        })
}

fn remove_file(socket: &ListenSocket) {
    if let Some(path) = &socket.unlink {
        remove_path(path);
    }
}

fn remove_path(path: &std::path::Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            log::warn!("{} cannot be removed: {error}", path.display());
        }
        _ => {}
    }
}

/// One sentence with the remedy.
fn refusal(
    listener: &ListenerPlan,
    address: &Address,
    error: &io::Error,
    own: Option<&Address>,
) -> Failure {
    let remedy = match (error.kind(), own) {
        (ErrorKind::AddrInUse, Some(own)) => format!(
            "address in use: this process listens on {own}; remove that with one reload and add this with the next"
        ),
        _ => remedy(address, error),
    };
    Failure::CannotStart(format!(
        "listener \"{}\" cannot bind {address}: {remedy}",
        listener.name
    ))
}

fn remedy(address: &Address, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            "address in use: stop the process that has it (ss -ltnp shows which) or choose another"
                .to_owned()
        }
        ErrorKind::PermissionDenied => match address {
            Address::Inet(_) => {
                "permission denied: ports below net.ipv4.ip_unprivileged_port_start need \
                                 CAP_NET_BIND_SERVICE"
                    .to_owned()
            }
            Address::Unix(_) => {
                "permission denied: this user needs write access to the folder".to_owned()
            }
        },
        ErrorKind::AddrNotAvailable => {
            "no interface of this machine has the address: correct it, or set freebind = true"
                .to_owned()
        }
        ErrorKind::NotFound => "the folder does not exist: create it".to_owned(),
        _ if error.raw_os_error() == Some(EMFILE) => {
            "too many open files: raise the limit (ulimit -n, LimitNOFILE=)".to_owned()
        }
        _ => error.to_string(),
    }
}

const EMFILE: i32 = libc::EMFILE;

#[cfg(test)]
#[path = "binder_tests.rs"]
mod tests;
