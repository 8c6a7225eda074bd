//! Ports for servers that must be told which one to take.
#![allow(unreachable_pub, reason = "each test holds this file where it likes")]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};

/// Below the ports that the kernel gives to outgoing connections (from 32768): one of those could take a port that was
/// found free before the server that is to have it.
const FIRST: u16 = 12_000;
const COUNT: u64 = 20_000;

/// A port on which nobody listens, and that no other caller gets.
pub fn free_port() -> u16 {
    static GIVEN: AtomicU64 = AtomicU64::new(0);
    // Test programs that run at once, and the modules of one that each hold this file, begin at different places.
    let mut hasher = DefaultHasher::new();
    (std::process::id(), module_path!()).hash(&mut hasher);
    let start = hasher.finish() % COUNT;
    loop {
        let step = (start + GIVEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = FIRST + u16::try_from(step).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
