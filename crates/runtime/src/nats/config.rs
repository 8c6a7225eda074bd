//! Where the servers are, and how to be let in.

use super::tls;
use async_nats::ServerAddr;
use std::fmt;
use std::path::PathBuf;

/// Where Dynamo's own processes look when they are told nothing.
pub const DEFAULT_SERVER: &str = "nats://localhost:4222";

/// As told; [`super::Nats::new`] checks it.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// `nats://HOST:PORT` or `tls://HOST:PORT`, several with commas between: members of one cluster.
    pub servers: String,
    /// Credentials.
    pub auth: NatsAuth,
    /// Certificates.
    pub tls: NatsTls,
    /// Name of this client in the server's lists.
    pub client_name: String,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            servers: DEFAULT_SERVER.into(),
            auth: NatsAuth::None,
            tls: NatsTls::default(),
            client_name: "busbar".into(),
        }
    }
}

/// How a client proves who it is. `Debug` shows no secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum NatsAuth {
    /// Not at all, or by user and password in the address.
    #[default]
    None,
    /// A user of the server's configuration.
    UserPassword {
        /// Name.
        user: String,
        /// Password.
        password: String,
    },
    /// A token of the server's configuration.
    Token(String),
    /// The seed (`SU…`) of an nkey that the server knows.
    Nkey(String),
    /// A `.creds` file with JWT and seed; read anew for each connection, so that it may be renewed.
    CredentialsFile(PathBuf),
}

impl fmt::Debug for NatsAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.described())
    }
}

impl NatsAuth {
    /// Who we say we are, without secrets.
    pub(super) fn described(&self) -> String {
        match self {
            Self::None => "no credentials".into(),
            Self::UserPassword { user, .. } => format!("user `{user}` and a password"),
            Self::Token(_) => "a token".into(),
            Self::Nkey(_) => "an nkey".into(),
            Self::CredentialsFile(path) => format!("the credentials file {}", path.display()),
        }
    }
}

/// Certificates of the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsTls {
    /// PEM file of the authorities that may have signed the server's certificate; the system's when absent. When set,
    /// the connection is encrypted or not made.
    pub ca_cert: Option<PathBuf>,
    /// PEM file of our certificate, for servers that ask for one; goes with `client_key`.
    pub client_cert: Option<PathBuf>,
    /// PEM file of its key.
    pub client_key: Option<PathBuf>,
    /// Take any certificate: whoever is between can read and change everything.
    pub insecure: bool,
}

/// A configuration that cannot work, however often it is tried.
#[derive(Debug, thiserror::Error)]
pub enum NatsConfigError {
    /// An address.
    #[error("`{address}` is no NATS address: {why}")]
    Address {
        /// As given.
        address: String,
        /// Why not.
        why: String,
    },
    /// A seed.
    #[error("the NATS nkey seed is not one: {0}")]
    Nkey(String),
    /// A credentials file.
    #[error("read the NATS credentials file {path}: {why}")]
    Credentials {
        /// Which.
        path: String,
        /// Why not.
        why: String,
    },
    /// A certificate or key.
    #[error("read the NATS {what} {path}: {why}")]
    Certificate {
        /// `CA certificate`, `client certificate` or `client key`.
        what: &'static str,
        /// The file.
        path: String,
        /// Why not.
        why: String,
    },
    /// One of a pair.
    #[error("a NATS client certificate and its key go together, and one of them is missing")]
    HalfAPair,
}

impl NatsConfigError {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Address { .. } => "write nats://HOST:PORT or tls://HOST:PORT in --nats-server (NATS_SERVER)",
            Self::Nkey(_) => "give the seed itself, which begins with SU, in NATS_AUTH_NKEY",
            Self::Credentials { .. } => {
                "give a file with a user JWT and its seed, as `nsc generate creds` writes it, in \
                 NATS_AUTH_CREDENTIALS_FILE"
            }
            Self::Certificate { .. } => {
                "give PEM files in NATS_TLS_CA_CERT_PATH, NATS_TLS_CLIENT_CERT_PATH and NATS_TLS_CLIENT_KEY_PATH"
            }
            Self::HalfAPair => "give both NATS_TLS_CLIENT_CERT_PATH and NATS_TLS_CLIENT_KEY_PATH",
        }
    }
}

/// The servers, with user and password taken out of the addresses.
pub(super) struct Checked {
    pub(super) servers: Vec<ServerAddr>,
    pub(super) auth: NatsAuth,
    pub(super) tls: async_nats::rustls::ClientConfig,
    /// Whether an unencrypted connection is refused.
    pub(super) tls_required: bool,
    pub(super) client_name: String,
}

/// Checks everything that can be checked without a server.
pub(super) fn check(config: &NatsConfig) -> Result<Checked, NatsConfigError> {
    let (mut servers, mut in_address) = (Vec::new(), None);
    for text in config.servers.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let (server, auth) = server(text)?;
        servers.push(server);
        in_address = in_address.or(auth);
    }
    if servers.is_empty() {
        let (address, why) = (config.servers.clone(), "there is none".to_owned());
        return Err(NatsConfigError::Address { address, why });
    }
    match &config.auth {
        NatsAuth::Nkey(seed) => {
            nkeys::KeyPair::from_seed(seed.trim()).map_err(|error| NatsConfigError::Nkey(error.to_string()))?;
        }
        NatsAuth::CredentialsFile(path) => {
            let unreadable = |why: String| NatsConfigError::Credentials { path: path.display().to_string(), why };
            let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
            async_nats::ConnectOptions::with_credentials(&text).map_err(|error| unreadable(error.to_string()))?;
        }
        NatsAuth::None | NatsAuth::UserPassword { .. } | NatsAuth::Token(_) => {}
    }
    let auth = match (&config.auth, in_address) {
        (NatsAuth::None, Some(auth)) => auth,
        (NatsAuth::Nkey(seed), _) => NatsAuth::Nkey(seed.trim().to_owned()),
        (auth, _) => auth.clone(),
    };
    Ok(Checked {
        servers,
        auth,
        tls: tls::client_config(&config.tls)?,
        tls_required: config.tls.ca_cert.is_some() || config.tls.client_cert.is_some(),
        client_name: config.client_name.clone(),
    })
}

/// One address, and the user and password that stood in it: the client library does not read them there.
fn server(text: &str) -> Result<(ServerAddr, Option<NatsAuth>), NatsConfigError> {
    let (shown, auth) = match text.rsplit_once('@') {
        None => (text.to_owned(), None),
        Some((front, host)) => {
            let (scheme, userinfo) = front.split_once("://").map_or(("nats", front), |(s, rest)| (s, rest));
            let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
            let (user, password) = (user.to_owned(), password.to_owned());
            (format!("{scheme}://{host}"), Some(NatsAuth::UserPassword { user, password }))
        }
    };
    let wrong = |why: String| NatsConfigError::Address { address: shown.clone(), why };
    let server: ServerAddr = shown.parse().map_err(|error: std::io::Error| wrong(error.to_string()))?;
    if !matches!(server.scheme(), "nats" | "tls") {
        return Err(wrong(format!("{}:// is not spoken here", server.scheme())));
    }
    if server.host().is_empty() {
        return Err(wrong("it has no host".into()));
    }
    Ok((server, auth))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(servers: &str) -> Result<Vec<String>, String> {
        let config = NatsConfig { servers: servers.into(), ..NatsConfig::default() };
        let shown = |server: &ServerAddr| format!("{}:{} {}", server.host(), server.port(), server.tls_required());
        check(&config).map(|c| c.servers.iter().map(shown).collect()).map_err(|e| e.to_string())
    }

    #[test]
    fn addresses_are_read_as_dynamo_reads_them() {
        assert_eq!(checked("nats://10.0.0.1:4222"), Ok(vec!["10.0.0.1:4222 false".into()]));
        assert_eq!(checked("nats.svc"), Ok(vec!["nats.svc:4222 false".into()]));
        let two = Ok(vec!["a:1 false".into(), "b:4222 true".into()]);
        assert_eq!(checked("nats://a:1, tls://b"), two);
        for (wrong, why) in [("", "there is none"), ("http://a:1", "http"), ("ws://a", "ws"), ("nats://:1", "no host")]
        {
            let error = checked(wrong).unwrap_err();
            assert!(error.contains(why) || error.contains("empty host"), "{wrong}: {error}");
        }
    }

    #[test]
    fn user_and_password_of_an_address_are_taken_and_never_shown() {
        let config = NatsConfig { servers: "nats://bob:secret@h:1".into(), ..NatsConfig::default() };
        let checked = check(&config).unwrap();
        let bob = NatsAuth::UserPassword { user: "bob".into(), password: "secret".into() };
        assert_eq!(checked.auth, bob);
        assert!(!checked.servers[0].as_url_str().contains("secret"));
        assert!(!format!("{bob:?}{:?}", NatsAuth::Token("secret".into())).contains("secret"));
        let refused = NatsConfig { servers: "ftp://bob:secret@h:1".into(), ..NatsConfig::default() };
        assert!(!check(&refused).err().unwrap().to_string().contains("secret"));
    }

    #[test]
    fn what_can_never_work_is_told_before_a_server_is_asked() {
        let told = |config: NatsConfig| check(&config).err().map(|error| format!("{error}; {}", error.remedy()));
        let with = |auth| NatsConfig { auth, ..NatsConfig::default() };
        assert!(told(with(NatsAuth::Nkey("SUNOSEED".into()))).unwrap().contains("NATS_AUTH_NKEY"));
        let missing = told(with(NatsAuth::CredentialsFile("/no/such.creds".into()))).unwrap();
        assert!(missing.contains("/no/such.creds") && missing.contains("nsc"), "{missing}");
        let tls = |tls| told(NatsConfig { tls, ..NatsConfig::default() }).unwrap();
        assert!(tls(NatsTls { ca_cert: Some("/no/ca.pem".into()), ..NatsTls::default() }).contains("/no/ca.pem"));
        assert!(tls(NatsTls { client_cert: Some("/no/c.pem".into()), ..NatsTls::default() }).contains("go together"));
    }
}
