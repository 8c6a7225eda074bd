//! What goes over the request connections of one client, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start; all only grow.
#[derive(Debug, Default)]
pub struct Traffic {
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    errors: AtomicU64,
    accept_backoffs: AtomicU64,
}

impl Traffic {
    /// Bytes of requests written to workers.
    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent.load(Ordering::Relaxed)
    }

    /// Bytes of acknowledgements read; answers come over connections of their own and are not in it.
    pub fn bytes_received(&self) -> u64 {
        self.bytes_received.load(Ordering::Relaxed)
    }

    /// Requests that could not be sent, or were not acknowledged in time.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Failures to accept a worker's connection, each followed by a pause: no descriptors or no memory left.
    pub fn accept_backoffs(&self) -> u64 {
        self.accept_backoffs.load(Ordering::Relaxed)
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.bytes_received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn accept_backed_off(&self) {
        self.accept_backoffs.fetch_add(1, Ordering::Relaxed);
    }
}
