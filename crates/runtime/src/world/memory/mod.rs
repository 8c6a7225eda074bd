//! A network within one process: machines with addresses, connections between them, and faults on purpose.
//!
//! Addresses are ordinary `IP:PORT`, so nothing above knows the difference. Everything that happens follows from the
//! calls, the paused or running clock of tokio, and one seed.

mod link;
mod pipe;
#[cfg(test)]
mod tests;

pub use link::{MemoryReadHalf, MemoryStream, MemoryWriteHalf};

use super::World;
use link::Link;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use tokio::sync::{Notify, mpsc};

/// Connections that wait to be accepted, as at the kernel's listeners.
const BACKLOG: usize = 4_096;

/// First port that is given to whoever asks for any.
const PORT_FIRST: u16 = 10_000;

/// What bytes meet on their way.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Longest delay of one way, in whole milliseconds, tokio's timer step. 0: everything arrives at once.
    pub delay_ms_max: u64,
    /// Most bytes that one read gives; each gives a random number up to it.
    pub piece_bytes_max: usize,
}

impl Weather {
    /// No delay, and no pieces.
    pub const FAIR: Self = Self { delay_ms_max: 0, piece_bytes_max: usize::MAX };
}

/// Machines and the connections between them. Clones are the same network.
#[derive(Clone, Debug)]
pub struct MemoryNetwork {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Rung when a hold is taken away, for those who dial meanwhile.
    released: Notify,
}

#[derive(Debug)]
struct State {
    listeners: BTreeMap<SocketAddr, mpsc::Sender<(MemoryStream, SocketAddr)>>,
    ports: BTreeMap<IpAddr, u16>,
    links: Vec<Weak<Link>>,
    /// Directions in which nothing arrives.
    held: BTreeSet<(IpAddr, IpAddr)>,
    /// Machines that stand still: the kernel answers for them, nothing else does.
    frozen: BTreeSet<IpAddr>,
    weather: Weather,
    rng: SmallRng,
}

impl MemoryNetwork {
    /// A network without machines.
    pub fn new(weather: Weather, seed: u64) -> Self {
        let state = State {
            listeners: BTreeMap::new(),
            ports: BTreeMap::new(),
            links: Vec::new(),
            held: BTreeSet::new(),
            frozen: BTreeSet::new(),
            weather,
            rng: SmallRng::seed_from_u64(seed),
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), released: Notify::new() }) }
    }

    /// The world as seen from the machine at `address`; `seed` is its chance. The same address again is the same
    /// machine after a restart.
    pub fn machine(&self, address: IpAddr, seed: u64) -> World {
        World::simulated(Machine { network: self.clone(), address }, seed)
    }

    /// Breaks every connection between two machines: both get an error, what was on its way is lost.
    pub fn cut(&self, one: IpAddr, other: IpAddr) {
        for link in self.links(|link| link.machines == [one, other] || link.machines == [other, one]) {
            link.cut();
        }
    }

    /// From now on nothing that `from` says arrives at `to`, and neither can dial the other: a black hole.
    pub fn hold(&self, from: IpAddr, to: IpAddr) {
        if self.shared.state.lock().held.insert((from, to)) {
            for link in self.links(|_| true) {
                link.pipes_between(from, to).for_each(pipe::Pipe::hold);
            }
        }
    }

    /// Ends [`MemoryNetwork::hold`]: what was held arrives.
    pub fn release(&self, from: IpAddr, to: IpAddr) {
        if self.shared.state.lock().held.remove(&(from, to)) {
            for link in self.links(|_| true) {
                link.pipes_between(from, to).for_each(pipe::Pipe::release);
            }
            self.shared.released.notify_waiters();
        }
    }

    /// Stops a machine without a word (SIGSTOP): its connections stand, new ones are made, nothing goes in or out.
    pub fn freeze(&self, machine: IpAddr) {
        if self.shared.state.lock().frozen.insert(machine) {
            for link in self.links(|link| link.machines.contains(&machine)) {
                link.pipes().for_each(pipe::Pipe::hold);
            }
        }
    }

    /// Lets a frozen machine go on.
    pub fn thaw(&self, machine: IpAddr) {
        if self.shared.state.lock().frozen.remove(&machine) {
            for link in self.links(|link| link.machines.contains(&machine)) {
                link.pipes().for_each(pipe::Pipe::release);
            }
        }
    }

    /// Ends a machine at once (kill -9): its ports close, and whoever it was connected to reads the end of the stream.
    /// Whoever runs on it should be dropped with it.
    pub fn kill(&self, machine: IpAddr) {
        self.thaw(machine);
        self.shared.state.lock().listeners.retain(|address, _| address.ip() != machine);
        for link in self.links(|link| link.machines.contains(&machine)) {
            link.leave(machine);
        }
    }

    /// Connections that one of the machines still holds an end of.
    pub fn connections(&self) -> usize {
        self.links(|_| true).len()
    }

    fn links(&self, wanted: impl Fn(&Link) -> bool) -> Vec<Arc<Link>> {
        let state = self.shared.state.lock();
        state.links.iter().filter_map(Weak::upgrade).filter(|link| wanted(link)).collect()
    }
}

/// One machine of a network.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    network: MemoryNetwork,
    address: IpAddr,
}

impl Machine {
    pub(super) fn listen(&self, port: u16) -> io::Result<MemoryListener> {
        let mut state = self.network.shared.state.lock();
        let port = if port == 0 { state.any_port(self.address) } else { port };
        let address = SocketAddr::new(self.address, port);
        if state.listeners.contains_key(&address) {
            return Err(ErrorKind::AddrInUse.into());
        }
        let (sender, arrivals) = mpsc::channel(BACKLOG);
        state.listeners.insert(address, sender.clone());
        Ok(MemoryListener { address, arrivals, sender: sender.downgrade(), network: self.network.clone() })
    }

    pub(super) async fn dial(&self, address: &str) -> io::Result<MemoryStream> {
        let unreadable = |_| io::Error::new(ErrorKind::InvalidInput, format!("{address} is not IP:PORT"));
        let to: SocketAddr = address.parse().map_err(unreadable)?;
        let shared = &self.network.shared;
        loop {
            let released = shared.released.notified();
            if let Some(answer) = self.try_dial(to) {
                return answer;
            }
            released.await;
        }
    }

    /// `None` while nothing gets through.
    fn try_dial(&self, to: SocketAddr) -> Option<io::Result<MemoryStream>> {
        let mut state = self.network.shared.state.lock();
        let (from, to_ip) = (self.address, to.ip());
        if state.held.contains(&(from, to_ip)) || state.held.contains(&(to_ip, from)) {
            return None;
        }
        let Some(listener) = state.listeners.get(&to).cloned() else {
            return Some(Err(ErrorKind::ConnectionRefused.into()));
        };
        let seeds = [state.rng.random(), state.rng.random()];
        let link = Link::new([from, to_ip], state.weather, seeds);
        let still = state.frozen.iter().filter(|machine| link.machines.contains(machine)).count();
        for _reason in 0..still {
            link.pipes().for_each(pipe::Pipe::hold);
        }
        let own = SocketAddr::new(from, state.any_port(from));
        state.links.retain(|link| link.strong_count() > 0);
        state.links.push(Arc::downgrade(&link));
        drop(state);
        let [near, far] = link.ends();
        Some(match listener.try_send((far, own)) {
            Ok(()) => Ok(near),
            Err(_) => Err(ErrorKind::ConnectionRefused.into()),
        })
    }
}

impl State {
    fn any_port(&mut self, machine: IpAddr) -> u16 {
        let next = self.ports.entry(machine).or_insert(PORT_FIRST);
        loop {
            let port = *next;
            *next = next.checked_add(1).unwrap_or(PORT_FIRST);
            if !self.listeners.contains_key(&SocketAddr::new(machine, port)) {
                return port;
            }
        }
    }
}

/// A socket that takes connections of a network in memory.
#[derive(Debug)]
pub struct MemoryListener {
    address: SocketAddr,
    arrivals: mpsc::Receiver<(MemoryStream, SocketAddr)>,
    /// Tells this listener from a later one at the same address.
    sender: mpsc::WeakSender<(MemoryStream, SocketAddr)>,
    network: MemoryNetwork,
}

impl MemoryListener {
    pub(super) async fn accept(&mut self) -> io::Result<(MemoryStream, SocketAddr)> {
        match self.arrivals.recv().await {
            Some(arrival) => Ok(arrival),
            // The machine was killed under it: nobody comes any more.
            None => std::future::pending().await,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        let Some(own) = self.sender.upgrade() else { return };
        let mut state = self.network.shared.state.lock();
        if state.listeners.get(&self.address).is_some_and(|sender| sender.same_channel(&own)) {
            state.listeners.remove(&self.address);
        }
    }
}
