//! Connections and listeners, of the kernel or in memory. An enum and no trait object: on the kernel's path this adds a
//! branch, and neither an allocation nor an indirect call.

use super::memory::{MemoryListener, MemoryReadHalf, MemoryStream, MemoryWriteHalf};
use crate::request_plane::socket;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Of the kernel; without Nagle's delay.
    Tcp(TcpStream),
    /// Of a network in memory.
    Memory(MemoryStream),
}

/// The reading half of a connection.
#[derive(Debug)]
pub enum ReadHalf {
    /// Of the kernel.
    Tcp(OwnedReadHalf),
    /// Of a network in memory.
    Memory(MemoryReadHalf),
}

/// The writing half of a connection. Dropping it ends the stream towards the peer; see [`WriteHalf::forget`].
#[derive(Debug)]
pub enum WriteHalf {
    /// Of the kernel.
    Tcp(OwnedWriteHalf),
    /// Of a network in memory.
    Memory(MemoryWriteHalf),
}

/// A socket that takes connections.
#[derive(Debug)]
pub enum Listener {
    /// Of the kernel.
    Tcp(TcpListener),
    /// Of a network in memory.
    Memory(MemoryListener),
}

impl Stream {
    /// Two halves that different tasks may hold. The connection closes when both are dropped.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Memory(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Memory(read), WriteHalf::Memory(write))
            }
        }
    }

    /// Turns Nagle's delay off.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Memory(_) => Ok(()),
        }
    }

    /// Writes what fits now.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits; those of the connection.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Memory(stream) => stream.try_write(bytes),
        }
    }
}

impl WriteHalf {
    /// Writes what fits now.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits; those of the connection.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write(bytes),
            Self::Memory(half) => half.try_write(bytes),
        }
    }

    /// Resolves when something may fit. Cancel-safe.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(half) => half.writable().await,
            Self::Memory(half) => half.writable().await,
        }
    }

    /// Drops this half without ending the stream: that happens when the reading half goes, too.
    pub fn forget(self) {
        match self {
            Self::Tcp(half) => half.forget(),
            Self::Memory(half) => half.forget(),
        }
    }
}

impl Listener {
    /// The next connection, set up, and who made it. Cancel-safe.
    ///
    /// # Errors
    /// Those of the system: no descriptor left, or a connection that was gone before it was taken.
    pub async fn accept(&mut self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::Tcp(stream), peer))
            }
            Self::Memory(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::Memory(stream), peer))
            }
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Memory(listener) => Ok(listener.address()),
        }
    }
}

/// Sets up a connection that was accepted: no Nagle delay, keep-alive on.
pub(crate) fn set_up(stream: &Stream) -> io::Result<()> {
    match stream {
        Stream::Tcp(stream) => socket::set_up(stream),
        Stream::Memory(_) => Ok(()),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Memory(stream) => stream.poll_read(cx, buffer),
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buffer),
            Self::Memory(half) => half.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Memory(stream) => stream.poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Memory(stream) => stream.poll_write(cx, first_of(slices)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Self::Tcp(stream) if stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Memory(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Memory(stream) => {
                stream.shut_down();
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_write(cx, bytes),
            Self::Memory(half) => half.poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_write_vectored(cx, slices),
            Self::Memory(half) => half.poll_write(cx, first_of(slices)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Self::Tcp(half) if half.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_flush(cx),
            Self::Memory(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            Self::Memory(half) => {
                half.shut_down();
                Poll::Ready(Ok(()))
            }
        }
    }
}

fn first_of<'a>(slices: &'a [io::IoSlice<'a>]) -> &'a [u8] {
    slices.iter().find(|slice| !slice.is_empty()).map_or(&[], |slice| slice)
}
