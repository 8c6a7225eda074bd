//! Each way to be let in, and what is told when the door stays shut.

use crate::jwt::Operator;
use crate::nats_server::NatsServer;
use crate::{config, connected, until};
use runtime::nats::{Nats, NatsAuth, NatsConfig};

fn with(server: &NatsServer, auth: NatsAuth) -> Nats {
    Nats::new(&NatsConfig { auth, ..config(server) }).unwrap()
}

async fn refused(nats: &Nats) {
    nats.connect();
    let refusals = || nats.counts().failures().get("authorization").copied().unwrap_or(0);
    until("the refusal is told", || refusals() > 0).await;
    until("it is tried again", || refusals() > 1).await;
    assert!(!nats.is_connected());
    assert_eq!(nats.counts().failures().len(), 1, "nothing else failed: {:?}", nats.counts().failures());
}

fn user(user: &str, password: &str) -> NatsAuth {
    NatsAuth::UserPassword { user: user.into(), password: password.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_the_right_password_comes_in_and_one_with_the_wrong_comes_in_once_it_is_right() {
    let Some(mut server) = NatsServer::start("authorization { user: bob, password: right }") else { return };
    connected(&with(&server, user("bob", "right"))).await;
    let in_address = server.url().replace("nats://", "nats://bob:right@");
    connected(&Nats::new(&NatsConfig { servers: in_address, ..config(&server) }).unwrap()).await;
    refused(&with(&server, NatsAuth::None)).await;
    let wrong = with(&server, user("bob", "wrong"));
    refused(&wrong).await;
    server.kill();
    server.configure("authorization { user: bob, password: wrong }");
    server.run();
    until("the same client comes in", || wrong.is_connected()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens() {
    let Some(server) = NatsServer::start("authorization { token: sesame }") else { return };
    connected(&with(&server, NatsAuth::Token("sesame".into()))).await;
    refused(&with(&server, NatsAuth::Token("barley".into()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nkey_opens() {
    let (key, other) = (nkeys::KeyPair::new_user(), nkeys::KeyPair::new_user());
    let users = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", key.public_key());
    let Some(server) = NatsServer::start(&users) else { return };
    connected(&with(&server, NatsAuth::Nkey(format!("{}\n", key.seed().unwrap())))).await;
    refused(&with(&server, NatsAuth::Nkey(other.seed().unwrap()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credentials_file_opens_and_one_that_is_renewed_is_read_again() {
    let (operator, stranger) = (Operator::new(), Operator::new());
    let Some(mut server) = NatsServer::prepared(&operator.server_config) else { return };
    server.run();
    let path = server.folder().join("worker.creds");
    std::fs::write(&path, &stranger.creds).unwrap();
    let nats = with(&server, NatsAuth::CredentialsFile(path.clone()));
    refused(&nats).await;
    std::fs::write(&path, &operator.creds).unwrap();
    until("the renewed file opens", || nats.is_connected()).await;
}
