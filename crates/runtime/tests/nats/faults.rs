//! A server that is killed, wiped, stopped or overrun: nobody waits, everything comes back, and what is missing shows.

use crate::nats_server::NatsServer;
use crate::{follow, nats, next, publisher, until, within};
use runtime::event_plane::{Publisher, Subscriber};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Publishes numbers until told to stop, one in half a millisecond; the longest a call took.
struct Load {
    running: Arc<AtomicBool>,
    published: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<(Publisher, Duration)>,
}

impl Load {
    fn start(publisher: Publisher) -> Self {
        let (running, published) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let (go_on, count) = (running.clone(), published.clone());
        let task = tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            while go_on.load(Ordering::Relaxed) {
                let before = Instant::now();
                // One poll is all it may take: a publisher waits for nobody.
                let published = futures::FutureExt::now_or_never(publisher.publish(&count.load(Ordering::Relaxed)));
                published.expect("publish waited").unwrap();
                longest = longest.max(before.elapsed());
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
            (publisher, longest)
        });
        Self { running, published, task }
    }

    async fn stop(self) -> (Publisher, u64) {
        self.running.store(false, Ordering::Relaxed);
        let (publisher, _longest) = within("the load stops", self.task).await.unwrap();
        (publisher, self.published.load(Ordering::Relaxed))
    }

    fn so_far(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }
}

/// Reads up to the event with this number; gives how many came and how many holes there were.
async fn read_to(subscriber: &mut Subscriber, last: u64) -> (u64, u64) {
    let (mut heard, mut holes, mut expected) = (0, 0, 0);
    loop {
        let event = next(subscriber).await;
        assert!(event.sequence >= expected, "out of order: {} after {expected}", event.sequence);
        assert_eq!(event.decode::<u64>().unwrap(), event.sequence, "the number within is the sequence");
        holes += u64::from(event.sequence > expected);
        (heard, expected) = (heard + 1, event.sequence + 1);
        if event.sequence >= last {
            return (heard, holes);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_wiped_and_restarted_under_load_it_is_found_again_and_the_newest_event_arrives() {
    let Some(mut server) = NatsServer::start("") else { return };
    let (worker, frontend) = (nats(&server), nats(&server));
    let publisher = publisher(&worker);
    let mut subscriber = follow(&publisher, &frontend).await;
    let mut connections = subscriber.connections();
    let losses = subscriber.losses();
    let load = Load::start(publisher);
    for round in 1..=3u64 {
        let before = load.so_far();
        until("some load", || load.so_far() > before + 100).await;
        server.kill();
        server.wipe();
        let before = load.so_far();
        until("it goes on without a server", || load.so_far() > before + 100).await;
        server.run();
        within("subscribed again", connections.wait_for(|&count| count > round)).await.unwrap();
        until("the worker is back", || worker.is_connected()).await;
    }
    let (publisher, published) = load.stop().await;
    publisher.publish(&published).await.unwrap();
    let (heard, _holes) = read_to(&mut subscriber, published).await;
    assert!(heard > 100 && heard <= published + 1, "{heard} of {published}");
    assert!(!losses.has_changed().unwrap(), "a server that dies is no worker that dies");
    assert!(worker.counts().sessions() >= 4 && frontend.counts().sessions() >= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_stands_still_the_oldest_events_are_dropped_and_counted_and_the_newest_show_the_hole() {
    let Some(server) = NatsServer::start("") else { return };
    let (worker, frontend) = (nats(&server), nats(&server));
    let publisher = publisher(&worker);
    let mut subscriber = follow(&publisher, &frontend).await;
    publisher.publish(&0u64).await.unwrap();
    assert_eq!(next(&mut subscriber).await.sequence, 0);
    server.stop();
    let load = Load::start(publisher);
    until("the silence is noticed", || !worker.is_connected() && !frontend.is_connected()).await;
    let links = subscriber.links();
    until("the subscriber knows", || !*links.borrow()).await;
    let (publisher, more) = load.stop().await;
    // The load counts from 0 and the publisher from 1 now: only the sequence is looked at here.
    for number in 0..5_000u64 {
        publisher.publish(&number).await.unwrap();
    }
    let last = more + 5_000;
    assert!(publisher.dropped() >= 5_000 - 1_024, "{} dropped", publisher.dropped());
    server.go_on();
    within("subscribed again", subscriber.connections().wait_for(|&count| count > 1)).await.unwrap();
    until("the worker is back", || worker.is_connected()).await;
    publisher.publish(&0u64).await.unwrap();
    let mut sequence = 0;
    while sequence <= last {
        let event = next(&mut subscriber).await;
        assert!(event.sequence > sequence);
        sequence = event.sequence;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_does_not_take_loses_its_own_events_and_no_others() {
    let Some(server) = NatsServer::start("") else { return };
    let (worker, frontend) = (nats(&server), nats(&server));
    let (fast, slow) = (publisher(&worker), publisher(&worker));
    let mut taken = follow(&fast, &frontend).await;
    let mut left = follow(&slow, &frontend).await;
    // More than a follower's queue holds, in steps that the outbox holds.
    let mut published = 0u64;
    while frontend.unread() == 0 {
        for _ in 0..500 {
            slow.publish(&published).await.unwrap();
            published += 1;
        }
        fast.publish(&published).await.unwrap();
        assert_eq!(next(&mut taken).await.decode::<u64>().unwrap(), published, "the other one is not held up");
        assert!(published < 1_000_000, "nothing was ever dropped");
    }
    // It begins to take: the queue is emptied, and the events after it show the hole.
    let (mut sequences, mut marker) = (Vec::new(), None);
    while marker.is_none_or(|marker| sequences.last().is_none_or(|&last| last < marker)) {
        match tokio::time::timeout(Duration::from_millis(50), left.next()).await {
            Ok(event) => sequences.push(event.unwrap().sequence),
            Err(_) => {
                slow.publish(&published).await.unwrap();
                marker = marker.or(Some(published));
                published += 1;
            }
        }
    }
    let lost = sequences.last().unwrap() + 1 - sequences.len() as u64;
    assert!(lost > 0 && sequences.is_sorted());
    assert_eq!(lost, frontend.unread() + slow.dropped(), "what is missing is counted");
    assert_eq!((fast.dropped(), frontend.counts().sessions()), (0, 1));
}
