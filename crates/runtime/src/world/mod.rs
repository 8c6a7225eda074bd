//! What a process asks of the machine below it: sockets, chance, and threads for work that blocks.
//!
//! A [`World`] is handed in with the configuration of whatever needs one. The default is the machine that this process
//! runs on. A [`MemoryNetwork`] makes others, each a machine of its own within one process, whose connections can be
//! cut, held and slowed: what a seeded simulation stands on. Time is tokio's in both, so a test may pause it.

mod chance;
mod memory;
mod stream;

pub use memory::{MemoryListener, MemoryNetwork, MemoryReadHalf, MemoryStream, MemoryWriteHalf, Weather};
pub(crate) use stream::set_up;
pub use stream::{Listener, ReadHalf, Stream, WriteHalf};

use crate::request_plane::socket;
use chance::Chance;
use memory::Machine;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

/// The machine that a part of the product runs on. Clones are the same machine.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// `None`: the real one.
    simulated: Option<Arc<Simulated>>,
}

#[derive(Debug)]
struct Simulated {
    machine: Machine,
    chance: Chance,
}

impl World {
    /// A machine of a network in memory; `seed` is all of its chance.
    fn simulated(machine: Machine, seed: u64) -> Self {
        Self { simulated: Some(Arc::new(Simulated { machine, chance: Chance::of_seed(seed) })) }
    }

    /// Dials `HOST:PORT` (IPv6 in brackets). No limit on the time; the caller has one.
    ///
    /// # Errors
    /// Those of the system: nobody listens, no route, no such name.
    pub async fn dial(&self, address: &str) -> io::Result<Stream> {
        match &self.simulated {
            None => socket::dial(address).await.map(Stream::Tcp),
            Some(simulated) => simulated.machine.dial(address).await.map(Stream::Memory),
        }
    }

    /// Listens on `host:port`; port 0 is any.
    ///
    /// # Errors
    /// Those of the system: the port is taken, `host` is no address of this machine.
    pub async fn listen(&self, host: &str, port: u16) -> io::Result<Listener> {
        match &self.simulated {
            None => socket::listen(host, port).await.map(Listener::Tcp),
            Some(simulated) => simulated.machine.listen(port).map(Listener::Memory),
        }
    }

    /// Listens on `address`, with room for `backlog` connections that are not accepted yet. Inside a tokio runtime. The
    /// kernel holds `send_buffer` bytes of what a peer does not take yet; a network in memory has a bound of its own.
    ///
    /// # Errors
    /// As [`World::listen`].
    pub fn listen_on(&self, address: SocketAddr, backlog: u32, send_buffer: u32) -> io::Result<Listener> {
        match &self.simulated {
            None => socket::listen_on(address, backlog, Some(send_buffer)).map(Listener::Tcp),
            Some(simulated) => simulated.machine.listen(address.port()).map(Listener::Memory),
        }
    }

    /// A random number: a name, a seed.
    pub fn random(&self) -> u64 {
        match &self.simulated {
            None => rand::random(),
            Some(simulated) => simulated.chance.number(),
        }
    }

    /// A random number within `range`: how far a pause is spread.
    pub fn random_within(&self, range: Range<f64>) -> f64 {
        match &self.simulated {
            None => rand::random_range(range),
            Some(simulated) => simulated.chance.within(range),
        }
    }

    /// Runs work that reads files or computes for long on a thread for it. A simulated machine does it at once, in
    /// place: a thread would bring the real scheduler's order into it.
    ///
    /// # Errors
    /// When the work panicked, on the real machine; in place a panic goes on.
    pub async fn off_thread<T, F>(&self, work: F) -> Result<T, tokio::task::JoinError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match &self.simulated {
            None => tokio::task::spawn_blocking(work).await,
            Some(_) => Ok(work()),
        }
    }
}
