//! The address that this machine is known by to its neighbours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The first non-loopback address of this host, or `127.0.0.1` on a host without a network.
///
/// It is the source address that the kernel would use towards the documentation networks (RFC 5737, RFC 3849): that
/// follows the default route. No packet is sent.
pub fn local_host() -> IpAddr {
    let v4 = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    let v6 = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9));
    source_towards(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), v4)
        .or_else(|| source_towards(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), v6))
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn source_towards(bind: SocketAddr, peer: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(bind).ok()?;
    socket.connect(peer).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_unspecified() && !source.is_loopback()).then_some(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_host_is_an_address_that_one_can_bind() {
        let host = local_host();
        assert!(!host.is_unspecified());
        std::net::TcpListener::bind((host, 0)).unwrap();
    }
}
