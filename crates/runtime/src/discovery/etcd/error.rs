//! What can be wrong with an etcd, told apart by what helps.

use super::super::outage::StoreError;
use std::fmt;

/// What helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtcdFault {
    /// Time, or another member: nobody answers, not in time, or the cluster has no leader.
    Unavailable,
    /// Other settings: an address or a file that cannot be used.
    Config,
    /// Other certificates, or another name.
    Tls,
    /// Another user or password.
    Login,
    /// More rights for this user.
    Denied,
    /// Another request: this one breaks a rule of the server.
    Refused,
    /// A new lease: ours is not there any more.
    LeaseGone,
    /// Nothing: a lease with our id is there already.
    LeaseTaken,
    /// A new list: the revision that the watch goes on from is compacted away.
    Compacted,
}

/// An etcd did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdError {
    /// What kind of fault.
    pub fault: EtcdFault,
    /// Which member, as configured; empty when none was reached.
    pub endpoint: String,
    /// In the words of the library or the server.
    pub cause: String,
}

impl EtcdError {
    pub(super) fn new(fault: EtcdFault, endpoint: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { fault, endpoint: endpoint.into(), cause: cause.into() }
    }

    /// Whether the same call may work later with the same settings.
    pub fn may_heal(&self) -> bool {
        !matches!(self.fault, EtcdFault::Config | EtcdFault::Tls | EtcdFault::Login | EtcdFault::Denied)
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self.fault {
            EtcdFault::Unavailable => {
                "start etcd or correct ETCD_ENDPOINTS (https:// when etcd serves TLS); it is tried again all the time"
            }
            EtcdFault::Config => "correct ETCD_ENDPOINTS or the ETCD_AUTH_* variable that is named",
            EtcdFault::Tls => {
                "check ETCD_AUTH_CA, ETCD_AUTH_CLIENT_CERT and ETCD_AUTH_CLIENT_KEY, and that the server's certificate has the name in ETCD_ENDPOINTS (or give --etcd-tls-server-name)"
            }
            EtcdFault::Login => "correct ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD",
            EtcdFault::Denied => "give this user a role with read and write rights on the prefix `v1/`",
            EtcdFault::Refused => {
                "raise etcd's --max-request-bytes if the record is too large; else this is a fault of ours"
            }
            EtcdFault::LeaseGone | EtcdFault::LeaseTaken | EtcdFault::Compacted => "nothing: it mends itself",
        }
    }
}

impl fmt::Display for EtcdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            EtcdFault::Unavailable => "does not answer",
            EtcdFault::Config => "cannot be asked with these settings",
            EtcdFault::Tls => "and we do not agree on TLS",
            EtcdFault::Login => "refused the login",
            EtcdFault::Denied => "denied it to this user",
            EtcdFault::Refused => "refused the request",
            EtcdFault::LeaseGone => "has lost our lease",
            EtcdFault::LeaseTaken => "has our lease already",
            EtcdFault::Compacted => "has compacted what the watch needs",
        };
        let at = if self.endpoint.is_empty() { "etcd".to_owned() } else { format!("etcd at {}", self.endpoint) };
        write!(f, "{at} {what}: {}", self.cause)
    }
}

impl std::error::Error for EtcdError {}

impl StoreError for EtcdError {
    type Fault = EtcdFault;

    fn fault(&self) -> EtcdFault {
        self.fault
    }

    fn remedy(&self) -> String {
        EtcdError::remedy(self).to_owned()
    }
}
