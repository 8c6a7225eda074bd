//! Where a vLLM that we start is reached: a port, and sockets for its KV events.

use super::command_line::flag;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// Where a child is reached.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) http_port: u16,
    pub(super) events: String,
    pub(super) replay: String,
    /// Holds the sockets of both, where they are files.
    pub(super) folder: Option<SocketFolder>,
}

/// Flags of a vLLM of several ranks, which counts the ports of its event sockets up and cannot count files.
const RANKS_FLAGS: [&str; 2] = ["--data-parallel-size", "-dp"];

/// A port that nobody holds now, and sockets for the KV events. vLLM cannot be given a socket, so between here and its
/// bind another program may take a port; it then ends at once and says so.
///
/// The events hold the tokens of every prompt and vLLM binds ports to all addresses only, so the sockets are files that
/// no other user reaches.
pub(super) fn places(arguments: &[String]) -> std::io::Result<Places> {
    let listen = || TcpListener::bind(("127.0.0.1", 0));
    let (http, events, replay) = (listen()?, listen()?, listen()?);
    let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
    let http_port = port(&http)?;
    if RANKS_FLAGS.iter().any(|name| flag(arguments, name).is_some()) {
        // `*` makes vLLM bind; with an address it would dial.
        let at = |port| format!("tcp://*:{port}");
        return Ok(Places { http_port, events: at(port(&events)?), replay: at(port(&replay)?), folder: None });
    }
    let folder = SocketFolder::new()?;
    let at = |name| format!("ipc://{}", folder.0.join(name).display());
    Ok(Places { http_port, events: at("events"), replay: at("replay"), folder: Some(folder) })
}

/// A folder of ours alone, gone with the value.
#[derive(Debug)]
pub(super) struct SocketFolder(PathBuf);

impl SocketFolder {
    fn new() -> std::io::Result<Self> {
        /// A socket's path has at most 107 bytes on Linux; this leaves room for our names.
        const TEMP_BYTES_MAX: usize = 60;
        let temp = std::env::temp_dir();
        let temp = if temp.as_os_str().len() > TEMP_BYTES_MAX { PathBuf::from("/tmp") } else { temp };
        let path = temp.join(format!("busbar-vllm-{:08x}", rand::random::<u32>()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for SocketFolder {
    fn drop(&mut self) {
        // What stays is an empty socket in a folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_sockets_are_files_of_our_own_unless_there_are_several_ranks() {
        use std::os::unix::fs::PermissionsExt;
        let mut alone = places(&[]).unwrap();
        let folder = alone.folder.take().unwrap();
        assert_eq!(alone.events, format!("ipc://{}/events", folder.0.display()));
        assert_eq!(std::fs::metadata(&folder.0).unwrap().permissions().mode() & 0o777, 0o700);
        let path = folder.0.clone();
        drop(folder);
        assert!(!path.exists(), "gone with its vLLM");
        let ranks = places(&["--data-parallel-size=2".to_owned()]).unwrap();
        assert!(ranks.folder.is_none() && ranks.events.starts_with("tcp://*:"), "{ranks:?}");
    }
}
