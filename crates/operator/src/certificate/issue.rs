//! Makes authorities and serving certificates.

use super::{AUTHORITY_LIFETIME, BACKDATE, SERVING_LIFETIME};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Name of every authority of ours. One name for all: clients tell them apart by their keys, and an authority that was
/// read back needs no more than its key to sign.
const AUTHORITY: &str = "busbar-operator webhooks";

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error(
    "make the webhooks' certificate for {names}; the name of the Service or the host of --webhook-url must be a DNS name or an address"
)]
pub struct IssueError {
    /// The names that it is for.
    pub names: String,
    /// Why.
    #[source]
    pub source: rcgen::Error,
}

fn failed(names: &[String]) -> impl Fn(rcgen::Error) -> IssueError {
    move |source| IssueError { names: names.join(", "), source }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, AUTHORITY);
    // It signs serving certificates and no further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn dated(params: &mut CertificateParams, now: SystemTime, lifetime: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = epoch + now.saturating_sub(BACKDATE);
    params.not_after = epoch + (now + lifetime);
}

/// A new authority: certificate and key.
pub(super) fn authority(now: SystemTime) -> Result<(String, String), IssueError> {
    let names = [AUTHORITY.to_owned()];
    let failed = failed(&names);
    let key = KeyPair::generate().map_err(&failed)?;
    let mut params = authority_params();
    dated(&mut params, now, AUTHORITY_LIFETIME);
    let certificate = params.self_signed(&key).map_err(&failed)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// A serving certificate and its key, signed with the key of an authority of ours.
pub(super) fn serving(authority_key: &str, names: &[String], now: SystemTime) -> Result<(String, String), IssueError> {
    let failed = failed(names);
    let issuer = Issuer::new(authority_params(), KeyPair::from_pem(authority_key).map_err(&failed)?);
    let key = KeyPair::generate().map_err(&failed)?;
    let mut params = CertificateParams::new(names).map_err(&failed)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "busbar-operator");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    dated(&mut params, now, SERVING_LIFETIME);
    let certificate = params.signed_by(&key, &issuer).map_err(&failed)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// A certificate as PEM.
pub(super) fn pem(der: &CertificateDer<'_>) -> String {
    const LINE: usize = 64;
    let text = base64(der);
    let lines = text.as_bytes().chunks(LINE).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n");
    format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")
}

/// Base64 as Kubernetes writes bytes in JSON.
fn base64(bytes: &[u8]) -> String {
    let text = serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec()));
    text.ok().as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}
