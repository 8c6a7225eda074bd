//! Why there is no connection, and what to do about it: put into words once, from the library's error.

use async_nats::{ConnectError, ConnectErrorKind};
use std::error::Error;

/// A connection that was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NatsFailure {
    /// Nobody listens there, or the name has no address.
    Unreachable,
    /// Somebody takes the connection and does not speak NATS in time.
    Silent,
    /// The server does not let us in.
    Refused,
    /// The server's certificate is of another name.
    TlsName,
    /// The server's certificate is signed by nobody we know, or is out of date.
    TlsCertificate,
    /// The server wants a certificate of ours, or will not encrypt.
    TlsRefused,
    /// Anything else.
    Broken,
}

impl NatsFailure {
    /// The class of a failed try, and its words.
    pub(super) fn of(error: &ConnectError) -> (Self, String) {
        let words = chain(error);
        (Self::classify(error.kind(), &words), words)
    }

    /// By the library's kind and, where that says only "IO error", by the words of TLS below it.
    fn classify(kind: ConnectErrorKind, words: &str) -> Self {
        let says = |parts: &[&str]| parts.iter().any(|part| words.contains(part));
        match kind {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => Self::Refused,
            ConnectErrorKind::TimedOut => Self::Silent,
            ConnectErrorKind::Dns => Self::Unreachable,
            _ if says(&["not valid for name", "NotValidForName"]) => Self::TlsName,
            _ if says(&["invalid peer certificate", "UnknownIssuer"]) => Self::TlsCertificate,
            _ if says(&["CertificateRequired", "certificate required", "received fatal alert", "TLS error"]) => {
                Self::TlsRefused
            }
            _ if says(&["expected INFO"]) => Self::Silent,
            _ if says(&["refused", "unreachable", "No route"]) => Self::Unreachable,
            _ if says(&["Authorization Violation", "authorization violation", "Authentication"]) => Self::Refused,
            _ => Self::Broken,
        }
    }

    /// Value of the label `error_type`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Silent => "timeout",
            Self::Refused => "authorization",
            Self::TlsName | Self::TlsCertificate | Self::TlsRefused => "tls",
            Self::Broken => "io",
        }
    }

    /// What failed.
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Unreachable => "no NATS server answers",
            Self::Silent => "whoever answers does not speak NATS in time",
            Self::Refused => "the NATS server does not let us in",
            Self::TlsName => "the certificate of the NATS server is for another name",
            Self::TlsCertificate => "the certificate of the NATS server cannot be trusted",
            Self::TlsRefused => "the NATS server refuses our side of TLS",
            Self::Broken => "the connection to NATS breaks",
        }
    }

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Unreachable => "start it, or give its address with --nats-server (NATS_SERVER)",
            Self::Silent => {
                "look whether that address is a NATS server's client port (4222 unless told), and whether it is overloaded"
            }
            Self::Refused => {
                "give the user (NATS_AUTH_USERNAME, NATS_AUTH_PASSWORD), token (NATS_AUTH_TOKEN), nkey \
                 (NATS_AUTH_NKEY) or credentials file (NATS_AUTH_CREDENTIALS_FILE) that this server knows"
            }
            Self::TlsName => {
                "give the server by a name of its certificate in --nats-server (NATS_SERVER), or give the server a \
                 certificate with this name"
            }
            Self::TlsCertificate => "give the authority that signed it in NATS_TLS_CA_CERT_PATH, or renew it",
            Self::TlsRefused => {
                "give a client certificate in NATS_TLS_CLIENT_CERT_PATH and NATS_TLS_CLIENT_KEY_PATH that its \
                 authority signed, and look whether the server has TLS on"
            }
            Self::Broken => "the server's own log says more",
        }
    }
}

/// The error and all below it; each says its own layer only, or repeats the next one.
fn chain(error: &ConnectError) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        next = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_class_and_a_remedy_that_names_the_setting() {
        use ConnectErrorKind as K;
        for (kind, words, failure, setting) in [
            (K::Io, "IO error: Connection refused (os error 111)", NatsFailure::Unreachable, "NATS_SERVER"),
            (K::Dns, "DNS error: failed to lookup", NatsFailure::Unreachable, "NATS_SERVER"),
            (K::TimedOut, "timed out", NatsFailure::Silent, "client port"),
            (K::AuthorizationViolation, "authorization violation", NatsFailure::Refused, "NATS_AUTH_TOKEN"),
            (
                K::Io,
                "IO error: invalid peer certificate: certificate not valid for name \"x\"",
                NatsFailure::TlsName,
                "NATS_SERVER",
            ),
            (
                K::Io,
                "IO error: invalid peer certificate: UnknownIssuer",
                NatsFailure::TlsCertificate,
                "NATS_TLS_CA_CERT_PATH",
            ),
            (
                K::Io,
                "IO error: received fatal alert: CertificateRequired",
                NatsFailure::TlsRefused,
                "NATS_TLS_CLIENT_CERT_PATH",
            ),
            (K::Io, "IO error: expected INFO, got nothing", NatsFailure::Silent, "4222"),
            (K::Io, "IO error: broken pipe", NatsFailure::Broken, "log"),
        ] {
            assert_eq!(NatsFailure::classify(kind, words), failure, "{words}");
            assert!(failure.remedy().contains(setting), "{words}");
        }
    }
}
