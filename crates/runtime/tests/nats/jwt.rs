//! The JWTs of an operator's server, made here: a test cannot wait for somebody with `nsc`.
//!
//! Source: NATS JWT v2: `header.claims.signature`, base64url without padding, signed by the issuer's nkey.

use nkeys::KeyPair;
use serde_json::{Value, json};

/// A server that trusts one operator, and a user of its one account.
pub(crate) struct Operator {
    /// For the server's configuration.
    pub(crate) server_config: String,
    /// A `.creds` file.
    pub(crate) creds: String,
}

impl Operator {
    pub(crate) fn new() -> Self {
        let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
        let operator_jwt = jwt(&operator, &operator, "the operator", &json!({"type": "operator", "version": 2}));
        let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1});
        let account_jwt =
            jwt(&operator, &account, "the account", &json!({"type": "account", "version": 2, "limits": &limits}));
        let user_claims =
            json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
        let user_jwt = jwt(&account, &user, "the user", &user_claims);
        // Without an account for the server itself JetStream does not start.
        let system = KeyPair::new_account();
        let system_jwt =
            jwt(&operator, &system, "the system", &json!({"type": "account", "version": 2, "limits": &limits}));
        let (account_id, system_id) = (account.public_key(), system.public_key());
        let server_config = format!(
            "operator: \"{operator_jwt}\"\nsystem_account: {system_id}\nresolver: MEMORY\n\
             resolver_preload: {{ {account_id}: \"{account_jwt}\", {system_id}: \"{system_jwt}\" }}"
        );
        let seed = user.seed().unwrap();
        let creds = format!(
            "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        Self { server_config, creds }
    }
}

fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: &Value) -> String {
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let claims = json!({"jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name,
        "sub": subject.public_key(), "nats": nats});
    let signed = format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", base64url(&signature))
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let group = |chunk: &[u8]| {
        let padded = [chunk[0], *chunk.get(1).unwrap_or(&0), *chunk.get(2).unwrap_or(&0)];
        let bits = padded.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte));
        (0..=chunk.len()).map(move |at| char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize]))
    };
    bytes.chunks(3).flat_map(group).collect()
}
