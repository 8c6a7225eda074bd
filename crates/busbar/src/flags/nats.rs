//! Flags of the planes that may go over NATS, by the names of Dynamo and of its environment.

use crate::report::Failure;
use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use runtime::nats::{DEFAULT_SERVER, Nats, NatsAuth, NatsConfig, NatsTls};
use std::path::PathBuf;

/// How events travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum EventPlane {
    /// From a socket of each worker to each frontend; nothing else must run.
    #[default]
    Zmq,
    /// Through a NATS server; workers need no port for it.
    Nats,
}

/// How requests travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RequestPlane {
    /// On a connection from frontend to worker.
    #[default]
    Tcp,
    /// Through a NATS server, whose max_payload bounds a request; answers still travel over TCP.
    Nats,
}

/// Where the NATS server is and how to be let in.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "NATS (when events or requests travel over it)")]
pub(crate) struct NatsFlags {
    /// nats://HOST:PORT or tls://HOST:PORT; several members of one cluster with commas between.
    #[arg(long, value_name = "URL", env = "NATS_SERVER", default_value = DEFAULT_SERVER)]
    nats_server: String,
    /// User, with a password.
    #[arg(long, value_name = "NAME", env = "NATS_AUTH_USERNAME")]
    nats_auth_username: Option<String>,
    /// Password; every user of this machine sees what stands on a command line, so better the variable.
    #[arg(long, value_name = "PASSWORD", env = "NATS_AUTH_PASSWORD", hide_env_values = true)]
    nats_auth_password: Option<String>,
    /// Token, in place of user and password.
    #[arg(long, value_name = "TOKEN", env = "NATS_AUTH_TOKEN", hide_env_values = true)]
    nats_auth_token: Option<String>,
    /// Seed of an nkey (SU…), in place of the former.
    #[arg(long, value_name = "SEED", env = "NATS_AUTH_NKEY", hide_env_values = true)]
    nats_auth_nkey: Option<String>,
    /// .creds file with JWT and seed, in place of the former; read anew for each connection.
    #[arg(long, value_name = "FILE", env = "NATS_AUTH_CREDENTIALS_FILE")]
    nats_auth_credentials_file: Option<PathBuf>,
    /// PEM file of the authority that signed the server's certificate; the system's when absent. Makes TLS a must.
    #[arg(long, value_name = "FILE", env = "NATS_TLS_CA_CERT_PATH")]
    nats_tls_ca_cert_path: Option<PathBuf>,
    /// PEM file of our certificate, where the server asks for one.
    #[arg(long, value_name = "FILE", env = "NATS_TLS_CLIENT_CERT_PATH")]
    nats_tls_client_cert_path: Option<PathBuf>,
    /// PEM file of its key.
    #[arg(long, value_name = "FILE", env = "NATS_TLS_CLIENT_KEY_PATH")]
    nats_tls_client_key_path: Option<PathBuf>,
    /// Take any certificate of the server: whoever is between can read and change everything.
    #[arg(long, env = "NATS_TLS_INSECURE", value_parser = BoolishValueParser::new())]
    nats_tls_insecure: bool,
}

impl NatsFlags {
    /// What the flags mean; `client_name` is what the server lists.
    pub(crate) fn config(&self, client_name: &str) -> NatsConfig {
        NatsConfig {
            servers: self.nats_server.clone(),
            auth: self.auth(),
            tls: NatsTls {
                ca_cert: self.nats_tls_ca_cert_path.clone(),
                client_cert: self.nats_tls_client_cert_path.clone(),
                client_key: self.nats_tls_client_key_path.clone(),
                insecure: self.nats_tls_insecure,
            },
            client_name: client_name.to_owned(),
        }
    }

    /// The first that is given, in Dynamo's order. An empty variable is none: a manifest may set it so.
    fn auth(&self) -> NatsAuth {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let (Some(user), Some(password)) = (given(&self.nats_auth_username), given(&self.nats_auth_password)) {
            return NatsAuth::UserPassword { user, password };
        }
        if let Some(token) = given(&self.nats_auth_token) {
            return NatsAuth::Token(token);
        }
        if let Some(seed) = given(&self.nats_auth_nkey) {
            return NatsAuth::Nkey(seed);
        }
        match &self.nats_auth_credentials_file {
            Some(path) if !path.as_os_str().is_empty() => NatsAuth::CredentialsFile(path.clone()),
            _ => NatsAuth::None,
        }
    }

    /// The connection of a process that needs it.
    pub(crate) fn connection(&self, client_name: &str) -> Result<Nats, Failure> {
        let nats = Nats::new(&self.config(client_name))
            .map_err(|error| Failure::new("use NATS").cause(error.to_string()).remedy(error.remedy()).permanent())?;
        nats.connect();
        Ok(nats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        nats: NatsFlags,
    }

    fn auth(line: &str) -> NatsAuth {
        let words = ["busbar"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).nats.auth()
    }

    #[test]
    fn the_first_credentials_count_in_dynamos_order_and_half_a_pair_is_none() {
        let both = "--nats-auth-username bob --nats-auth-password p";
        let bob = NatsAuth::UserPassword { user: "bob".into(), password: "p".into() };
        assert_eq!(auth(&format!("{both} --nats-auth-token t")), bob);
        assert_eq!(auth("--nats-auth-username bob --nats-auth-token t"), NatsAuth::Token("t".into()));
        assert_eq!(auth("--nats-auth-nkey SUX --nats-auth-credentials-file f"), NatsAuth::Nkey("SUX".into()));
        assert_eq!(auth("--nats-auth-credentials-file f"), NatsAuth::CredentialsFile("f".into()));
        assert_eq!(auth(""), NatsAuth::None);
    }
}
