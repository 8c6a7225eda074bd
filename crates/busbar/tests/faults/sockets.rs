//! Whose socket it is: the process behind the other end of a loopback connection, from `/proc`.

use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;

/// Which of `pids` has a TCP socket that is bound to `local`; only IPv4.
pub(crate) fn owner_of(local: SocketAddr, pids: &[u32]) -> Option<u32> {
    let SocketAddr::V4(local) = local else { return None };
    if pids.is_empty() {
        return None;
    }
    let link = format!("socket:[{}]", inode_of(local)?);
    let holds = |pid: &&u32| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|target| target == Path::new(&link))
    };
    pids.iter().find(holds).copied()
}

/// The inode of the socket whose own address is `local`; the kernel prints addresses as the integers that they are in
/// memory, and the inode in the tenth column.
fn inode_of(local: SocketAddrV4) -> Option<u64> {
    let address = format!("{:08X}:{:04X}", u32::from_ne_bytes(local.ip().octets()), local.port());
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let row = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    row.filter(|row| row.get(1) == Some(&address.as_str())).find_map(|row| row.get(9)?.parse().ok().filter(|&i| i != 0))
}

#[test]
fn the_process_behind_a_connection_is_found() {
    let listener = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (_far, peer) = listener.accept().unwrap();
    assert_eq!(owner_of(peer, &[1, std::process::id()]), Some(std::process::id()));
    drop(near);
    assert_eq!(owner_of(peer, &[1]), None);
}
