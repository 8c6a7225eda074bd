//! The certificate that new connections are answered with.

use super::{Material, certified};
use parking_lot::RwLock;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::sync::Arc;

/// Holds the newest certificate. Connections that are open keep theirs.
#[derive(Debug, Default)]
pub struct Serving(RwLock<Option<Arc<CertifiedKey>>>);

impl Serving {
    /// From now on new connections get this one. False, and nothing changes, when key and certificate do not fit.
    pub fn set(&self, material: &Material) -> bool {
        match certified(&material.certificate, &material.key) {
            Some(certified) => {
                *self.0.write() = Some(Arc::new(certified));
                true
            }
            None => false,
        }
    }

    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        self.0.read().is_some()
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().clone()
    }
}
