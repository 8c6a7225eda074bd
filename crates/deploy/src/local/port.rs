//! Whether a port is free, and who holds it if not.

use super::RunError;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

/// Fails when `address` cannot be bound now.
///
/// # Errors
/// [`RunError::PortTaken`] with the holder's name and pid where `/proc` shows them.
pub fn check_free(address: SocketAddr) -> Result<(), RunError> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let holder = holder(address.port()).unwrap_or_else(|| "another program".into());
            Err(RunError::PortTaken { port: address.port(), holder })
        }
        Err(error) => Err(RunError::PortTaken { port: address.port(), holder: format!("the system ({error})") }),
    }
}

/// `another program (nginx, pid 12)`.
fn holder(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| listening_inode(table, port))?;
    let socket = format!("socket:[{inode}]");
    let pid = std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        holds(&entry.path().join("fd"), &socket).then_some(pid)
    })?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("another program ({}, pid {pid})", name.trim()))
}

fn listening_inode(table: &str, port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let wanted = format!(":{port:04X}");
    std::fs::read_to_string(table).ok()?.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields.get(1)?.ends_with(&wanted) && *fields.get(3)? == LISTEN)
            .then(|| (*fields.get(9).unwrap_or(&"0")).to_owned())
    })
}

fn holds(fd_folder: &Path, socket: &str) -> bool {
    std::fs::read_dir(fd_folder).is_ok_and(|fds| {
        fds.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == socket))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_holder() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = check_free(listener.local_addr().unwrap()).unwrap_err();
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        assert!(error.remedy().contains("--port"));
    }
}
