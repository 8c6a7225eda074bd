//! A connection to one member, and what its failures mean.

use super::config::{EtcdConfig, EtcdTls};
use super::error::{EtcdError, EtcdFault};
use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

/// Pings that find out a member that hangs or a network that swallows: no watch is deaf for longer than their sum.
/// etcd refuses pings that come more often than every 5 s.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_MAX: Duration = Duration::from_secs(5);

/// Connects to a member. The caller says how long that may take.
pub(super) async fn connect(config: &EtcdConfig, endpoint: &str) -> Result<Channel, EtcdError> {
    let wrong = |cause: String| EtcdError::new(EtcdFault::Config, endpoint, cause);
    let mut target = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| wrong(chain(&error)))?;
    if let Some(host) = endpoint.strip_prefix("https://") {
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host).trim_matches(['[', ']']);
        let tls = tls_config(&config.tls, host).await.map_err(wrong)?;
        target = target.tls_config(tls).map_err(|error| wrong(chain(&error)))?;
    }
    let target = target
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_MAX)
        .keep_alive_while_idle(true);
    target.connect().await.map_err(|error| EtcdError::new(transport_fault(&error), endpoint, chain(&error)))
}

async fn tls_config(tls: &EtcdTls, host: &str) -> Result<ClientTlsConfig, String> {
    let mut config = ClientTlsConfig::new().domain_name(tls.server_name.as_deref().unwrap_or(host));
    config = match &tls.ca {
        Some(path) => config.ca_certificate(Certificate::from_pem(read("ETCD_AUTH_CA", path).await?)),
        None => config.with_native_roots(),
    };
    if let Some((certificate, key)) = &tls.client {
        let certificate = read("ETCD_AUTH_CLIENT_CERT", certificate).await?;
        config = config.identity(Identity::from_pem(certificate, read("ETCD_AUTH_CLIENT_KEY", key).await?));
    }
    Ok(config)
}

async fn read(variable: &str, path: &Path) -> Result<Vec<u8>, String> {
    let pem = tokio::fs::read(path).await.map_err(|error| format!("{variable} {}: {error}", path.display()))?;
    if !pem.windows(11).any(|window| window == b"-----BEGIN ") {
        return Err(format!("{variable} {}: it is no PEM file", path.display()));
    }
    Ok(pem)
}

/// What a call that ended with `status` at `endpoint` means.
pub(super) fn error_of(endpoint: &str, status: &Status) -> EtcdError {
    let text = status.message();
    let fault = match status.code() {
        Code::InvalidArgument if text.contains("authentication failed") || text.contains("user name is empty") => {
            EtcdFault::Login
        }
        Code::Unauthenticated => EtcdFault::Login,
        Code::PermissionDenied => EtcdFault::Denied,
        Code::NotFound if text.contains("lease") => EtcdFault::LeaseGone,
        Code::FailedPrecondition if text.contains("lease already exists") => EtcdFault::LeaseTaken,
        Code::OutOfRange if text.contains("compacted") => EtcdFault::Compacted,
        Code::InvalidArgument | Code::Unimplemented | Code::NotFound | Code::FailedPrecondition => EtcdFault::Refused,
        _ => transport_fault(status),
    };
    EtcdError::new(fault, endpoint, chain(status))
}

/// Whether a new token may help.
pub(super) fn wants_token(status: &Status) -> bool {
    let text = status.message();
    status.code() == Code::Unauthenticated
        || text.contains("invalid auth token")
        || text.contains("revision of auth store is old")
        || text.contains("user name is empty")
}

fn transport_fault(error: &(dyn Error + 'static)) -> EtcdFault {
    let mut next = Some(error);
    while let Some(error) = next {
        // An io::Error that wraps another names that one's source as its own, and skips the error itself.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let is_tls = error.is::<rustls::Error>() || wrapped.is_some_and(|inner| inner.is::<rustls::Error>());
        // HTTP/2 keeps only the text of what its connection died of: an alert of the other side.
        let text = error.to_string();
        if is_tls || text.contains("received fatal alert") || text.starts_with("HTTP/2 was not negotiated") {
            return EtcdFault::Tls;
        }
        next = error.source();
    }
    EtcdFault::Unavailable
}

/// An error and its causes, each said once; what only says that something went wrong is left out.
fn chain(error: &(dyn Error + 'static)) -> String {
    const EMPTY_WORDS: [&str; 3] = ["transport error", "client error", "connection error"];
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = match error.downcast_ref::<Status>() {
            Some(status) => status.message().to_owned(),
            None => error.to_string(),
        };
        if !text.is_empty() && !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    if parts.len() > 1 {
        parts.retain(|part| !EMPTY_WORDS.contains(&part.as_str()));
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_answers_are_told_apart_by_what_helps() {
        let check = |code, text: &str, expected| {
            let error = error_of("http://e:1", &Status::new(code, text));
            assert_eq!(error.fault, expected, "{text}");
            assert!(error.to_string().contains(text) && error.to_string().contains("http://e:1"), "{error}");
        };
        // The texts of etcd 3.5, api/v3rpc/rpctypes/error.go.
        check(
            Code::InvalidArgument,
            "etcdserver: authentication failed, invalid user ID or password",
            EtcdFault::Login,
        );
        check(Code::InvalidArgument, "etcdserver: user name is empty", EtcdFault::Login);
        check(Code::Unauthenticated, "etcdserver: invalid auth token", EtcdFault::Login);
        check(Code::PermissionDenied, "etcdserver: permission denied", EtcdFault::Denied);
        check(Code::NotFound, "etcdserver: requested lease not found", EtcdFault::LeaseGone);
        check(Code::FailedPrecondition, "etcdserver: lease already exists", EtcdFault::LeaseTaken);
        check(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", EtcdFault::Compacted);
        check(Code::InvalidArgument, "etcdserver: request is too large", EtcdFault::Refused);
        check(Code::Unavailable, "etcdserver: no leader", EtcdFault::Unavailable);
        check(Code::Unavailable, "etcdserver: request timed out", EtcdFault::Unavailable);
        check(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", EtcdFault::Unavailable);
    }

    #[test]
    fn an_alert_of_the_server_is_a_fault_of_tls() {
        let mut status = Status::new(Code::Unknown, "transport error");
        status.set_source(std::sync::Arc::new(io::Error::other("received fatal alert: CertificateRequired")));
        let error = error_of("https://e:1", &status);
        assert_eq!(error.fault, EtcdFault::Tls);
        assert_eq!(error.cause, "received fatal alert: CertificateRequired");
    }

    #[test]
    fn a_certificate_that_is_refused_is_a_fault_of_tls_however_deep_it_lies() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let io = io::Error::new(io::ErrorKind::InvalidData, tls);
        let mut status = Status::new(Code::Unavailable, "transport error");
        status.set_source(std::sync::Arc::new(io));
        assert_eq!(error_of("https://e:1", &status).fault, EtcdFault::Tls);
    }
}
