//! How every socket of the request plane is set.

use crate::world::{self, Listener, Stream};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, lookup_host};

/// A peer whose machine vanished without a FIN is noticed after about 5 + 3 × 2 = 11 s. Dynamo has no sign of life of
/// its own on these connections, and the kernel's does not need the peer's consent.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(2)).with_retries(3);

/// Connections the kernel completes before we accept them: a burst of call-homes must not meet a full queue.
const BACKLOG: u32 = 4_096;

/// No Nagle delay, keep-alive on.
pub(crate) fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE)
}

/// Dials `HOST:PORT` (IPv6 in brackets), and sets the socket up.
pub(crate) async fn dial(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    set_up(&stream)?;
    Ok(stream)
}

/// Listens on `host:port`.
pub(crate) async fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let unresolved = || io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{host} has no address"));
    let address = lookup_host((host, port)).await?.next().ok_or_else(unresolved)?;
    listen_on(address, BACKLOG, None)
}

/// Listens on `address`; accepted connections have `send_buffer` bytes in the kernel, or as many as it likes.
pub(crate) fn listen_on(address: SocketAddr, backlog: u32, send_buffer: Option<u32>) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    // A restart may take the port while old connections are in TIME_WAIT; a second listener may not.
    socket.set_reuseaddr(true)?;
    if let Some(bytes) = send_buffer {
        // Accepted sockets inherit it.
        socket.set_send_buffer_size(bytes)?;
    }
    socket.bind(address)?;
    socket.listen(backlog)
}

/// `HOST:PORT` that others should dial: `advertise`, or the listener's own host, or this machine's address when the
/// listener takes any.
pub(crate) fn advertised(listener: &Listener, advertise: Option<&str>) -> io::Result<String> {
    let local = listener.local_addr()?;
    let host = match advertise {
        Some(host) => host.trim_matches(['[', ']']).to_owned(),
        None if local.ip().is_unspecified() => crate::local_host().to_string(),
        None => local.ip().to_string(),
    };
    let port = local.port();
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// Accepts for ever. A failure to accept (no file descriptors left, say) waits a moment instead of spinning.
pub(crate) async fn accept_each(listener: Listener, what: &'static str, take: impl FnMut(Stream, SocketAddr)) {
    accept_each_noting(listener, what, take, || ()).await;
}

/// The same; `failed` is called for each failure to accept.
pub(crate) async fn accept_each_noting(
    mut listener: Listener,
    what: &'static str,
    mut take: impl FnMut(Stream, SocketAddr),
    failed: impl Fn(),
) {
    /// Long enough for a descriptor to come free, short against any time-out.
    const PAUSE: Duration = Duration::from_millis(50);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match world::set_up(&stream) {
                Ok(()) => take(stream, peer),
                Err(error) => tracing::debug!(what, %peer, %error, "a connection was gone before it was accepted"),
            },
            Err(error) => {
                failed();
                tracing::warn!(what, %error, "cannot accept connections; raise the limit of open files if it is that");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_ends_have_no_delay_and_keep_alive() {
        let listener = Listener::Tcp(listen("127.0.0.1", 0).await.unwrap());
        let address = advertised(&listener, None).unwrap();
        let (sent, mut accepted) = tokio::sync::mpsc::channel(1);
        let accepting = accept_each(listener, "test", |stream, _| sent.try_send(stream).unwrap());
        let dialled = async {
            let near = dial(&address).await.unwrap();
            let Some(Stream::Tcp(far)) = accepted.recv().await else { panic!("a connection of the kernel") };
            [near, far].map(|stream| (stream.nodelay().unwrap(), SockRef::from(&stream).keepalive().unwrap()))
        };
        tokio::select! {
            () = accepting => {}
            options = dialled => assert_eq!(options, [(true, true); 2]),
        }
    }

    #[tokio::test]
    async fn what_is_advertised_can_be_dialled() {
        let any = Listener::Tcp(listen("0.0.0.0", 0).await.unwrap());
        let port = any.local_addr().unwrap().port();
        assert_eq!(advertised(&any, None).unwrap(), format!("{}:{port}", crate::local_host()));
        assert_eq!(advertised(&any, Some("worker-0.svc")).unwrap(), format!("worker-0.svc:{port}"));
        assert_eq!(advertised(&any, Some("[fd00::1]")).unwrap(), format!("[fd00::1]:{port}"));
        assert_eq!(advertised(&any, Some("fd00::1")).unwrap(), format!("[fd00::1]:{port}"));
    }
}
