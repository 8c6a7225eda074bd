//! Both sides against libzmq, through Python's pyzmq.
//!
//! Runs when `BUSBAR_TEST_PYTHON` names a Python that has pyzmq, as `make test` does; says so when it does not.

use super::{TOPIC, publisher, until, within_a_minute};
use crate::event_plane::{Envelope, Subscriber};
use bytes::Bytes;
use protocol::ids::PublisherId;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const SCRIPT: &str = include_str!("pyzmq_peer.py");

struct Peer {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Peer {
    /// Starts the script; `None` when no Python is named.
    fn start(arguments: &[&str]) -> Option<Self> {
        let Ok(python) = std::env::var("BUSBAR_TEST_PYTHON") else {
            println!("NOT RUN: BUSBAR_TEST_PYTHON does not name a Python that has pyzmq");
            return None;
        };
        let mut child = Command::new(&python)
            .args(["-c", SCRIPT])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("BUSBAR_TEST_PYTHON={python}: {error}"));
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Some(Self { input, output: BufReader::new(output).lines(), _child: child })
    }

    async fn line(&mut self) -> String {
        let line = within_a_minute("pyzmq says something", self.output.next_line()).await.unwrap();
        line.expect("the Python peer ended; does BUSBAR_TEST_PYTHON have pyzmq? See the output above")
    }
}

fn of_hex(text: &str) -> Bytes {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn libzmq_subscribes_to_our_publisher() {
    let publisher = publisher().await;
    let Some(mut peer) = Peer::start(&["sub", &publisher.endpoint(), TOPIC]) else { return };
    until("libzmq subscribes", || publisher.subscribers() == 1).await;
    for number in 0..100_u64 {
        publisher.publish(&(number, "x".repeat(number as usize * 10))).await.unwrap();
    }
    for number in 0..100_u64 {
        let frames: Vec<Bytes> = peer.line().await.split(' ').map(of_hex).collect();
        let event = Envelope::from_zmq(&frames).unwrap();
        assert_eq!((event.sequence, event.publisher_id), (number, publisher.id()));
        assert_eq!(event.decode::<(u64, String)>().unwrap().0, number);
    }
    drop(peer);
    until("libzmq leaves", || publisher.subscribers() == 0).await;
}

#[tokio::test]
async fn our_subscriber_hears_a_libzmq_publisher() {
    let Some(mut peer) = Peer::start(&["pub"]) else { return };
    let endpoint = peer.line().await;
    let mut subscriber = Subscriber::connect(&endpoint, TOPIC).await.unwrap();
    within_a_minute("libzmq is told of the subscription", subscriber.subscribed()).await;
    let event = |sequence: u64| Envelope {
        publisher_id: PublisherId(9),
        sequence,
        published_at_ms: 3,
        topic: TOPIC.into(),
        payload: vec![0xc0; sequence as usize].into(),
    };
    let hex = |sequence: u64| {
        let frames = event(sequence).to_zmq().unwrap();
        let hex = |frame: &Bytes| frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        frames.iter().map(hex).collect::<Vec<_>>().join(" ") + "\n"
    };
    // A PUB socket drops what it sends before it has read the subscription: send the first until it comes.
    let first = within_a_minute("the first event comes", async {
        loop {
            peer.input.write_all(hex(0).as_bytes()).await.unwrap();
            if let Ok(first) = tokio::time::timeout(Duration::from_millis(20), subscriber.next()).await {
                return first.unwrap();
            }
        }
    })
    .await;
    assert_eq!(first, event(0));
    for sequence in 1..=500 {
        peer.input.write_all(hex(sequence).as_bytes()).await.unwrap();
    }
    let mut expected = 1;
    while expected <= 500 {
        let heard = super::next(&mut subscriber).await;
        if heard.sequence > 0 {
            assert_eq!(heard, event(expected));
            expected += 1;
        }
    }
}
