//! A connection in memory: two pipes, and the ends that hold them.

use super::Weather;
use super::pipe::{Pipe, Read};
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::ReadBuf;
use tokio::time::Sleep;

/// Both directions between two machines.
#[derive(Debug)]
pub(super) struct Link {
    /// Who dialled, and who was dialled.
    pub(super) machines: [IpAddr; 2],
    /// By sender: what the dialler says, and what it hears.
    pipes: [Pipe; 2],
}

impl Link {
    pub(super) fn new(machines: [IpAddr; 2], weather: Weather, seeds: [u64; 2]) -> Arc<Self> {
        Arc::new(Self { machines, pipes: seeds.map(|seed| Pipe::new(weather, seed)) })
    }

    /// The two ends: the dialler's and the other's.
    pub(super) fn ends(self: &Arc<Self>) -> [MemoryStream; 2] {
        [0, 1].map(|side| MemoryStream { end: Arc::new(End { link: self.clone(), side }), timer: None })
    }

    /// Both ends get an error; what is on its way is lost.
    pub(super) fn cut(&self) {
        self.pipes.iter().for_each(Pipe::reset);
    }

    /// `machine` is gone: the other side reads what was sent, and then the end.
    pub(super) fn leave(&self, machine: IpAddr) {
        for side in [0, 1] {
            if self.machines[side] == machine {
                self.pipes[side].end();
                self.pipes[1 - side].deafen();
            }
        }
    }

    /// The pipes that carry what `from` says to `to`.
    pub(super) fn pipes_between(&self, from: IpAddr, to: IpAddr) -> impl Iterator<Item = &Pipe> {
        let is_it = move |side: usize| self.machines[side] == from && self.machines[1 - side] == to;
        (0..2).filter(move |&side| is_it(side)).map(|side| &self.pipes[side])
    }

    /// Both pipes.
    pub(super) fn pipes(&self) -> impl Iterator<Item = &Pipe> {
        self.pipes.iter()
    }
}

/// One side of a link; when its last holder drops it, the side closes.
#[derive(Debug)]
struct End {
    link: Arc<Link>,
    side: usize,
}

impl End {
    fn said(&self) -> &Pipe {
        &self.link.pipes[self.side]
    }

    fn heard(&self) -> &Pipe {
        &self.link.pipes[1 - self.side]
    }

    fn poll_read(
        &self,
        timer: &mut Option<Pin<Box<Sleep>>>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.heard().read(cx, buffer) {
                Read::Done(result) => return Poll::Ready(result),
                Read::Nothing => return Poll::Pending,
                Read::NothingBefore(at) => {
                    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
                    if timer.deadline() != at {
                        timer.as_mut().reset(at);
                    }
                    if timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.said().end();
        self.heard().deafen();
    }
}

/// A connection of a network in memory.
#[derive(Debug)]
pub struct MemoryStream {
    end: Arc<End>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// Its reading half.
#[derive(Debug)]
pub struct MemoryReadHalf {
    end: Arc<End>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// Its writing half.
#[derive(Debug)]
pub struct MemoryWriteHalf {
    end: Arc<End>,
    ends_stream: bool,
}

impl MemoryStream {
    pub(crate) fn into_split(self) -> (MemoryReadHalf, MemoryWriteHalf) {
        let Self { end, timer } = self;
        (MemoryReadHalf { end: end.clone(), timer }, MemoryWriteHalf { end, ends_stream: true })
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.end.said().try_write(bytes)
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.end.poll_read(&mut self.timer, cx, buffer)
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.end.said().poll_write(cx, bytes)
    }

    pub(crate) fn shut_down(&self) {
        self.end.said().end();
    }
}

impl MemoryReadHalf {
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.end.poll_read(&mut self.timer, cx, buffer)
    }
}

impl MemoryWriteHalf {
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.end.said().try_write(bytes)
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| self.end.said().poll_writable(cx)).await
    }

    pub(crate) fn forget(mut self) {
        self.ends_stream = false;
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.end.said().poll_write(cx, bytes)
    }

    pub(crate) fn shut_down(&self) {
        self.end.said().end();
    }
}

impl Drop for MemoryWriteHalf {
    fn drop(&mut self) {
        if self.ends_stream {
            self.end.said().end();
        }
    }
}
