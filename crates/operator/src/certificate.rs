//! The webhooks' certificate: an authority of our own and what it signed, in one Secret that all replicas share.
//!
//! [`renew`] decides, as a pure function of what is there and the time; [`store::ensure`] writes what it decided with
//! the version that it replaces, so of several replicas one wins and the others read what it wrote. [`Serving`] hands
//! the newest certificate to every new connection.
//!
//! The serving certificate lasts [`SERVING_LIFETIME`] and is made anew a third before its end. The authority lasts
//! [`AUTHORITY_LIFETIME`]; in its last year a second one joins it in the bundle that the API server trusts. The next
//! serving certificate is signed by the old one once more, so the new one is known everywhere for
//! two months before anything rests on it.

mod issue;
mod serving;
pub mod store;
mod validity;

pub use issue::IssueError;
pub use serving::Serving;
pub use validity::validity;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Short, because it renews itself.
pub const SERVING_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// A third of it: an operator that was off for weeks still comes back with a valid one.
pub const SERVING_RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);
/// As Dynamo's.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// More than [`SERVING_LIFETIME`], so that nothing that it signs outlives it.
pub const AUTHORITY_RENEW_BEFORE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Certificates are valid from so long ago: clocks of the API servers may be behind.
const BACKDATE: Duration = Duration::from_secs(3600);
/// Authorities in the bundle: the new and the old; a third one only after someone damaged the Secret.
const AUTHORITIES_MAX: usize = 3;

/// What the Secret holds, all as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// Authorities to trust, the newest first: what goes into `caBundle`.
    pub bundle: String,
    /// Key of the newest authority.
    pub authority_key: String,
    /// The serving certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

/// A certificate and its key, ready for TLS; none when they do not belong together.
pub(crate) fn certified(certificate: &str, key: &str) -> Option<CertifiedKey> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().ok()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).ok()?;
    if chain.is_empty() {
        return None;
    }
    CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider()).ok()
}

/// What must be written, or `None` while everything `found` is good for some time; `names` are the DNS names and
/// addresses at which the API server calls.
///
/// A damaged part is made anew; authorities that are still valid stay in the bundle.
///
/// # Errors
/// [`IssueError`] when a name cannot be put into a certificate.
pub fn renew(found: Option<&Material>, names: &[String], now: SystemTime) -> Result<Option<Material>, IssueError> {
    let authorities = found.map(|found| authorities(&found.bundle, now)).unwrap_or_default();
    let newest = found.and_then(|found| {
        let newest = authorities.first()?;
        certified(&newest.pem, &found.authority_key)?;
        Some((newest, found.authority_key.as_str()))
    });
    let Some((newest, newest_key)) = newest else {
        let (pem, key) = issue::authority(now)?;
        let (certificate, serving_key) = issue::serving(&key, names, now)?;
        let bundle = bundle(std::iter::once(pem.as_str()).chain(authorities.iter().map(|old| old.pem.as_str())));
        return Ok(Some(Material { bundle, authority_key: key, certificate, key: serving_key }));
    };
    if newest.not_after < now + AUTHORITY_RENEW_BEFORE {
        let (pem, authority_key) = issue::authority(now)?;
        let (certificate, key) = issue::serving(newest_key, names, now)?;
        let bundle = bundle(std::iter::once(pem.as_str()).chain(authorities.iter().map(|old| old.pem.as_str())));
        return Ok(Some(Material { bundle, authority_key, certificate, key }));
    }
    let is_good = |found: &Material| serves(found, names, now) && serves(found, names, now + SERVING_RENEW_BEFORE);
    if found.is_some_and(is_good) {
        return Ok(None);
    }
    let (certificate, key) = issue::serving(newest_key, names, now)?;
    // Whatever older authorities signed has run out once the newest is older than that.
    let is_alone = newest.not_before + SERVING_LIFETIME + DAY < now;
    let kept = if is_alone { 1 } else { AUTHORITIES_MAX };
    let bundle = bundle(authorities.iter().take(kept).map(|authority| authority.pem.as_str()));
    Ok(Some(Material { bundle, authority_key: newest_key.to_owned(), certificate, key }))
}

/// An authority of the bundle that is valid now.
struct Authority {
    pem: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

fn authorities(bundle: &str, now: SystemTime) -> Vec<Authority> {
    let read = CertificateDer::pem_slice_iter(bundle.as_bytes()).filter_map(Result::ok);
    let read = read.filter_map(|der| {
        let (not_before, not_after) = validity(&der)?;
        Some(Authority { pem: issue::pem(&der), not_before, not_after })
    });
    read.filter(|authority| authority.not_after > now).collect()
}

fn bundle<'a>(authorities: impl Iterator<Item = &'a str>) -> String {
    authorities.take(AUTHORITIES_MAX).collect()
}

/// Whether a client that trusts the bundle takes the certificate under each of `names` at the time `at`: asked of the
/// verifier itself, so chain, names, use and dates are all seen.
fn serves(material: &Material, names: &[String], at: SystemTime) -> bool {
    let Some(serving) = certified(&material.certificate, &material.key) else { return false };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(material.bundle.as_bytes()).filter_map(Result::ok));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build() else {
        return false;
    };
    let Ok(since_epoch) = at.duration_since(UNIX_EPOCH) else { return false };
    let at = UnixTime::since_unix_epoch(since_epoch);
    names.iter().all(|name| {
        let Ok(name) = ServerName::try_from(name.as_str()) else { return false };
        verifier.verify_server_cert(&serving.cert[0], &serving.cert[1..], &name, &[], at).is_ok()
    })
}
