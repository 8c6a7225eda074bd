//! A NATS server that is away is no worker's fault: requests wait for it, streams do not notice.

use crate::nats_server::NatsServer;
use crate::plane::{count, handler_of, token, tokens};
use crate::requests::{client, target, worker};
use crate::{nats, until, within};
use runtime::request_plane::ErrorClass;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::Semaphore;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_a_server_that_is_away_and_a_running_stream_does_not_notice() {
    let Some(mut server) = NatsServer::start("") else { return };
    let (workers, frontend) = (nats(&server), nats(&server));
    let gate = Arc::new(Semaphore::new(1));
    let hold = gate.clone();
    let handler = handler_of(move |incoming, mut out| {
        let hold = hold.clone();
        async move {
            for id in 0..incoming.decode::<u32>().unwrap() {
                hold.acquire().await.unwrap().forget();
                out.item(&token(id)).await.unwrap();
            }
            out.finish().await;
        }
    });
    let _worker = worker(&workers, handler).await;
    let client = client(&frontend).await;
    let mut running = within("sent", client.send(&target(), "running", &3u32)).await.unwrap();
    server.kill();
    server.wipe();
    until("both noticed", || !workers.is_connected() && !frontend.is_connected()).await;
    gate.add_permits(2);
    assert_eq!(tokens(&mut running).await, (vec![0, 1, 2], None));

    let sender = client.clone();
    let waiting = tokio::spawn(async move { sender.send(&target(), "waiting", &2u32).await });
    // It has not failed while it was tried again and again.
    let tries = || frontend.counts().failures().values().sum::<u64>();
    let before = tries();
    until("some tries", || tries() > before + 3).await;
    assert!(!waiting.is_finished());
    // The worker accepts a request with its first token.
    gate.add_permits(2);
    server.run();
    let mut stream = within("sent at last", waiting).await.unwrap().unwrap();
    assert_eq!(tokens(&mut stream).await, (vec![0, 1], None));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_under_load_no_request_fails_and_none_is_answered_twice() {
    let Some(mut server) = NatsServer::start("") else { return };
    let (workers, frontend) = (nats(&server), nats(&server));
    let _worker = worker(&workers, handler_of(count)).await;
    let client = client(&frontend).await;
    let (done, stop) = (Arc::new(AtomicU32::new(0)), tokio_util::sync::CancellationToken::new());
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (client, done, stop) = (client.clone(), done.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    let mut stream = client.send(&target(), "id", &3u32).await.unwrap();
                    assert_eq!(tokens(&mut stream).await, (vec![0, 1, 2], None));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..3 {
        let before = done.load(Ordering::Relaxed);
        until("requests are answered", || done.load(Ordering::Relaxed) > before + 50).await;
        server.kill();
        until("the loss is noticed", || !frontend.is_connected()).await;
        server.run();
    }
    let before = done.load(Ordering::Relaxed);
    until("requests are answered again", || done.load(Ordering::Relaxed) > before + 50).await;
    stop.cancel();
    for client in clients {
        within("a client ends", client).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_is_waited_for_and_the_worker_is_not_blamed() {
    let Some(server) = NatsServer::start("") else { return };
    let (workers, frontend) = (nats(&server), nats(&server));
    let _worker = worker(&workers, handler_of(count)).await;
    let client = client(&frontend).await;
    server.stop();
    let sender = client.clone();
    let waiting = tokio::spawn(async move { sender.send(&target(), "waiting", &2u32).await });
    until("the silence is noticed", || !frontend.is_connected()).await;
    assert!(!waiting.is_finished());
    server.go_on();
    let mut stream = within("sent at last", waiting).await.unwrap().unwrap();
    assert_eq!(tokens(&mut stream).await, (vec![0, 1], None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_under_its_request_is_told_from_a_server_that_does() {
    let Some(server) = NatsServer::start("") else { return };
    let (workers, frontend) = (nats(&server), nats(&server));
    let worker = worker(
        &workers,
        handler_of(|_, out| async move {
            let mut out = out;
            out.item(&token(7)).await.unwrap();
            std::future::pending::<()>().await;
        }),
    )
    .await;
    let client = client(&frontend).await;
    let mut running = within("sent", client.send(&target(), "id", &1u32)).await.unwrap();
    drop(worker);
    let (ids, error) = tokens(&mut running).await;
    assert_eq!((ids, error.map(|error| error.class)), (vec![7], Some(ErrorClass::StreamIncomplete)));
    let error = within("an error", client.send(&target(), "id", &1u32)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::CannotConnect);
}
