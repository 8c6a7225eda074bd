//! Encrypted connections, and each way in which they fail.

use crate::nats_server::NatsServer;
use crate::{config, connected, until};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use runtime::nats::{Nats, NatsConfig, NatsTls};
use std::path::{Path, PathBuf};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Files in a folder: a certificate and its key, signed.
fn signed(folder: &Path, file: &str, name: &str, by: &Authority) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &**by).unwrap();
    let (cert, key_file) = (folder.join(format!("{file}.pem")), folder.join(format!("{file}.key")));
    std::fs::write(&cert, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    (cert, key_file)
}

/// A server with a certificate for `name`; its authority's file.
fn server(name: &str, asks_clients: bool) -> Option<(NatsServer, PathBuf, Authority)> {
    let mut server = NatsServer::prepared("")?;
    let authority = authority("a test's authority");
    let ca = server.folder().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let (cert, key) = signed(server.folder(), "server", name, &authority);
    server.configure(&format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: {asks_clients} }}",
        cert.display(),
        key.display(),
        ca.display()
    ));
    server.run();
    Some((server, ca, authority))
}

fn with(server: &NatsServer, tls: NatsTls) -> Nats {
    Nats::new(&NatsConfig { tls, ..config(server) }).unwrap()
}

async fn refused(nats: &Nats) {
    nats.connect();
    until("the failure is told", || nats.counts().failures().get("tls").is_some_and(|&tries| tries > 1)).await;
    assert!(!nats.is_connected());
    assert_eq!(nats.counts().failures().len(), 1, "nothing else failed: {:?}", nats.counts().failures());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_trusted_by_its_authority_and_its_name() {
    let Some((trusted, ca, _)) = server("127.0.0.1", false) else { return };
    let known = NatsTls { ca_cert: Some(ca), ..NatsTls::default() };
    connected(&with(&trusted, known.clone())).await;
    let by_scheme = NatsConfig { servers: trusted.url().replace("nats:", "tls:"), tls: known, ..config(&trusted) };
    connected(&Nats::new(&by_scheme).unwrap()).await;
    // The system's authorities do not know it; whoever says so may go without.
    refused(&with(&trusted, NatsTls::default())).await;
    connected(&with(&trusted, NatsTls { insecure: true, ..NatsTls::default() })).await;

    let Some((other_name, other_ca, _)) = server("nats.example", false) else { return };
    refused(&with(&other_name, NatsTls { ca_cert: Some(other_ca), ..NatsTls::default() })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_a_certificate_gets_ours() {
    let Some((server, ca, ca_key)) = server("127.0.0.1", true) else { return };
    let (client_cert, client_key) = signed(server.folder(), "client", "a client", &ca_key);
    let known = NatsTls { ca_cert: Some(ca), ..NatsTls::default() };
    let ours = NatsTls { client_cert: Some(client_cert), client_key: Some(client_key), ..known.clone() };
    connected(&with(&server, ours)).await;
    refused(&with(&server, known)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_makes_encryption_a_must() {
    let Some(plain) = NatsServer::start("") else { return };
    let ca = plain.folder().join("ca.pem");
    std::fs::write(&ca, authority("nobody's").pem()).unwrap();
    let nats = with(&plain, NatsTls { ca_cert: Some(ca), ..NatsTls::default() });
    nats.connect();
    until("it fails", || !nats.counts().failures().is_empty()).await;
    assert!(!nats.is_connected());
}
