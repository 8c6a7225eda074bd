//! A fault proxy: TCP links between the processes of a stage, which the test cuts, holds and slows.
//!
//! A process binds `127.0.0.1:PORT` and advertises `127.0.0.2` (`--advertise-host`); a link listens on
//! `127.0.0.2:PORT`, so that whoever dials what is advertised goes through it. All of 127/8 is this machine.
//!
//! What a proxy cannot do is to lose packets: a peer's kernel still acknowledges what is held. A held link is therefore
//! harder to notice than a broken network, whose lost acknowledgements TCP itself reports in time.

use crate::sockets::owner_of;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Bytes that a link takes at once.
const READ_BYTES: usize = 16 * 1024;

/// Reads that are under way on a slow link; more wait at the sender.
const UNDER_WAY_MAX: usize = 1_024;

/// What a link does with the bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Way {
    /// Hands them on.
    #[default]
    Pass,
    /// Takes no more of them and says nothing: neither data nor an end of it arrives.
    Hold,
    /// Hands each byte on so much later, however many are under way.
    Slow(Duration),
}

/// How open connections end when they are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// RST to both sides: what was under way is lost.
    Reset,
    /// FIN to both sides.
    Close,
}

/// What a link is told.
#[derive(Clone, Debug, Default)]
struct Weather {
    /// Bytes from whoever dialled to whoever listens, and back.
    onward: Way,
    back: Way,
    /// New connections are reset at once.
    closed: bool,
    /// Counts cuts, and how the last one ends what is open.
    cuts: u64,
    cut: Option<Cut>,
    /// Only connections that these processes dialled; all when empty.
    of: Vec<u32>,
}

/// Runs the links of one stage, on a thread of its own.
pub(crate) struct Network {
    runtime: Runtime,
}

/// One listening address and where it leads.
pub(crate) struct Link {
    weather: watch::Sender<Weather>,
}

impl Network {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self { runtime: runtime.unwrap() }
    }

    /// Listens on `from` and leads to `to`. Connections that processes of `dialled_by` make can be told apart from the
    /// others; give none where that is not wanted.
    pub(crate) fn link(&self, from: SocketAddr, to: SocketAddr, dialled_by: &[u32]) -> Link {
        let listener = self.runtime.block_on(TcpListener::bind(from)).unwrap_or_else(|e| panic!("link {from}: {e}"));
        let (weather, seen) = watch::channel(Weather::default());
        let known: Arc<[u32]> = dialled_by.into();
        self.runtime.spawn(accept(listener, to, known, seen));
        Link { weather }
    }
}

impl Link {
    /// From now on: what happens to bytes towards the listening side, and to those back.
    pub(crate) fn set(&self, onward: Way, back: Way) {
        self.weather.send_modify(|weather| (weather.onward, weather.back) = (onward, back));
    }

    /// From now on the faults are those of connections that these processes dialled, now or later.
    pub(crate) fn only(&self, pids: &[u32]) {
        self.weather.send_modify(|weather| weather.of = pids.to_vec());
    }

    /// Ends every open connection; new ones are made as ever.
    pub(crate) fn cut(&self, how: Cut) {
        self.weather.send_modify(|weather| {
            weather.cuts += 1;
            weather.cut = Some(how);
        });
    }

    /// Whether new connections are reset at once.
    pub(crate) fn close(&self, closed: bool) {
        self.weather.send_modify(|weather| weather.closed = closed);
    }

    /// Bytes pass and connections are made again.
    pub(crate) fn heal(&self) {
        self.set(Way::Pass, Way::Pass);
        self.close(false);
    }
}

/// One connection's view of its link.
#[derive(Clone)]
struct Sky {
    weather: watch::Receiver<Weather>,
    dialled_by: Option<u32>,
    /// Cuts that were over when this connection was made.
    cuts_before: u64,
}

impl Sky {
    fn concerned(&self, weather: &Weather) -> bool {
        weather.of.is_empty() || self.dialled_by.is_some_and(|pid| weather.of.contains(&pid))
    }

    fn way(&self, pick: fn(&Weather) -> Way) -> Way {
        let weather = self.weather.borrow();
        if self.concerned(&weather) { pick(&weather) } else { Way::Pass }
    }

    /// Resolves when this connection is cut.
    async fn cut(mut self) -> Cut {
        let (before, this) = (self.cuts_before, self.clone());
        let cut = self.weather.wait_for(|weather| weather.cuts > before && this.concerned(weather)).await;
        match cut {
            Ok(weather) => weather.cut.unwrap_or(Cut::Reset),
            // The link is gone, and the stage with it.
            Err(_) => Cut::Reset,
        }
    }

    /// Resolves when the way is not held.
    async fn open(&mut self, pick: fn(&Weather) -> Way) -> Way {
        loop {
            let way = self.way(pick);
            if way != Way::Hold || self.weather.changed().await.is_err() {
                return way;
            }
        }
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, known: Arc<[u32]>, weather: watch::Receiver<Weather>) {
    while let Ok((near, peer)) = listener.accept().await {
        let (known, weather) = (known.clone(), weather.clone());
        tokio::spawn(async move {
            let cuts_before = weather.borrow().cuts;
            // Reading the table of all sockets takes its time on a busy machine, and other connections go on meanwhile.
            let owner = tokio::task::spawn_blocking(move || owner_of(peer, &known));
            let dialled_by = owner.await.unwrap_or_default();
            connect(near, to, Sky { weather, dialled_by, cuts_before }).await;
        });
    }
}

async fn connect(mut near: TcpStream, to: SocketAddr, mut sky: Sky) {
    let closed = {
        let weather = sky.weather.borrow();
        weather.closed && sky.concerned(&weather)
    };
    // A held way lets no connection through either; its dialler waits in our backlog, so to speak.
    let far = if closed {
        None
    } else {
        sky.open(|weather| weather.onward).await;
        TcpStream::connect(to).await.ok()
    };
    let Some(mut far) = far else {
        let _ = near.set_zero_linger();
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ended = {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        let onward = pump(near_read, far_write, sky.clone(), |weather| weather.onward);
        let back = pump(far_read, near_write, sky.clone(), |weather| weather.back);
        tokio::select! {
            both = async { tokio::try_join!(onward, back) } => if both.is_ok() { Cut::Close } else { Cut::Reset },
            how = sky.cut() => how,
        }
    };
    if ended == Cut::Reset {
        let _ = (near.set_zero_linger(), far.set_zero_linger());
    }
}

/// Copies one direction to its end.
///
/// # Errors
/// When either side was reset; the other is reset then, too.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut sky: Sky,
    pick: fn(&Weather) -> Way,
) -> io::Result<()> {
    let (sent, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY_MAX);
    let mut reading = sky.clone();
    let read = async move {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            reading.open(pick).await;
            let bytes = from.read(&mut buffer).await?;
            let delay = if let Way::Slow(delay) = reading.way(pick) { delay } else { Duration::ZERO };
            // Nobody takes it any more: the writing side has failed, and says so itself.
            if sent.send((Instant::now() + delay, buffer[..bytes].to_vec())).await.is_err() || bytes == 0 {
                return Ok::<(), io::Error>(());
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = under_way.recv().await {
            tokio::time::sleep_until(due).await;
            // The weather may have changed meanwhile.
            sky.open(pick).await;
            if bytes.is_empty() {
                return to.shutdown().await;
            }
            to.write_all(&bytes).await?;
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}
