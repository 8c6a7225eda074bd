//! Where an etcd is and how to be let in.

use super::error::{EtcdError, EtcdFault};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Port of an endpoint that names none.
const DEFAULT_PORT: u16 = 2379;

/// An etcd cluster, under Dynamo's names for its settings.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// Client URLs of the members, `http://HOST:PORT` or `https://…` (`ETCD_ENDPOINTS`).
    pub endpoints: Vec<String>,
    /// Who we are (`ETCD_AUTH_USERNAME`, `ETCD_AUTH_PASSWORD`).
    pub user: Option<EtcdUser>,
    /// How TLS is spoken with `https` endpoints.
    pub tls: EtcdTls,
    /// How long our records outlive us, whole seconds (`ETCD_LEASE_TTL`). All processes should have the same.
    pub lease_ttl: Duration,
}

impl EtcdConfig {
    /// Dynamo's value: longer than any leader election, so that leases outlive it.
    pub const DEFAULT_LEASE_TTL: Duration = Duration::from_secs(30);

    /// Endpoints as `ETCD_ENDPOINTS` has them: separated by commas, the scheme `http` and the port 2379 unless told.
    ///
    /// # Errors
    /// [`EtcdFault::Config`] when one is no address, or there is none.
    pub fn parse_endpoints(text: &str) -> Result<Vec<String>, EtcdError> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let endpoints = words.map(parse_endpoint).collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(EtcdError::new(EtcdFault::Config, "", "no endpoint is given"));
        }
        Ok(endpoints)
    }
}

fn parse_endpoint(word: &str) -> Result<String, EtcdError> {
    if let Some((_, host)) = word.split_once('@') {
        let cause = "a user belongs into ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD, not into the URL";
        return Err(EtcdError::new(EtcdFault::Config, host, cause));
    }
    let wrong = |cause: &str| EtcdError::new(EtcdFault::Config, word, cause);
    let with_scheme = if word.contains("://") { word.to_owned() } else { format!("http://{word}") };
    let uri: hyper::http::Uri = with_scheme.parse().map_err(|_| wrong("it is no URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong("its scheme is neither http nor https"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong("a path belongs to no endpoint of etcd"));
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it has no host"))?;
    let with_port = uri.authority().is_some_and(|authority| authority.as_str() != host);
    if with_port && uri.port_u16().is_none() {
        return Err(wrong("its port is no number up to 65535"));
    }
    let scheme = uri.scheme_str().unwrap_or("http");
    Ok(format!("{scheme}://{host}:{}", uri.port_u16().unwrap_or(DEFAULT_PORT)))
}

/// A user of etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdUser {
    /// Name.
    pub name: String,
    /// Password; never shown.
    pub password: String,
}

impl fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdUser").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Files of TLS, all PEM. They are read again for every new connection, so that they may be renewed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdTls {
    /// Who signs the servers' certificates (`ETCD_AUTH_CA`); the system's authorities when absent.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key (`ETCD_AUTH_CLIENT_CERT`, `ETCD_AUTH_CLIENT_KEY`).
    pub client: Option<(PathBuf, PathBuf)>,
    /// The name in the servers' certificates, where it is not the host of the endpoint.
    pub server_name: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(EtcdConfig::parse_endpoints(text).expect("endpoints"), expected, "{text}");
    }

    fn refused(text: &str, why: &str) {
        let error = EtcdConfig::parse_endpoints(text).expect_err(text);
        assert!(error.to_string().contains(why) && !error.may_heal(), "{error}");
    }

    #[test]
    fn endpoints_are_read_as_dynamo_writes_them() {
        check("http://127.0.0.1:2379", &["http://127.0.0.1:2379"]);
        check("http://a:1, https://b:2/,c", &["http://a:1", "https://b:2", "http://c:2379"]);
        check("[::1]:2379", &["http://[::1]:2379"]);
    }

    #[test]
    fn what_is_no_endpoint_is_refused_by_its_name() {
        refused("", "no endpoint");
        refused(" , ", "no endpoint");
        refused("http://a:1,ftp://b", "ftp://b");
        refused("http://a:1/v3", "path");
        refused("http://a:notaport", "http://a:notaport");
        refused("http://a:65536", "port");
        refused("http://root:sesame@a:1", "ETCD_AUTH_USERNAME");
        let told = EtcdConfig::parse_endpoints("http://root:sesame@a:1").expect_err("a user").to_string();
        assert!(!told.contains("sesame"), "{told}");
    }

    #[test]
    fn a_password_is_never_shown() {
        let user = EtcdUser { name: "root".into(), password: "hunter2".into() };
        assert!(!format!("{user:?}").contains("hunter2"));
    }
}
