//! Raw ZMTP peers: old ones, and ones that break the rules.

use super::{TOPIC, next, publisher, until, within_a_minute};
use crate::event_plane::{Publisher, Subscriber};
use bytes::{BufMut, Bytes, BytesMut};
use protocol::dynamo::zmtp::{Command, Greeting, Incoming, Reader, encode_message};
use protocol::dynamo::{Envelope, FRAME_BYTES_MAX};
use protocol::ids::PublisherId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One end of a connection whose other end is ours.
struct Stranger {
    stream: TcpStream,
    buffer: BytesMut,
    reader: Reader,
}

impl Stranger {
    fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: BytesMut::new(), reader: Reader::default() }
    }

    async fn dial(publisher: &Publisher) -> Self {
        Self::new(TcpStream::connect(publisher.endpoint().strip_prefix("tcp://").unwrap()).await.unwrap())
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn tell(&mut self, command: Command) {
        let mut out = BytesMut::new();
        command.encode_into(&mut out);
        self.say(&out).await;
    }

    /// Greets as a ZMTP 3.`minor` socket of that type, and reads our greeting and READY.
    async fn greet(&mut self, minor: u8, socket_type: &str) {
        self.say(&Greeting { minor }.encode()).await;
        self.tell(Command::Ready(socket_type.into())).await;
        while Greeting::decode(&mut self.buffer).unwrap().is_none() {
            self.fill().await;
        }
        assert!(matches!(self.hear().await, Incoming::Command(Command::Ready(_))));
    }

    async fn fill(&mut self) -> usize {
        within_a_minute("the stranger is answered", self.stream.read_buf(&mut self.buffer)).await.unwrap_or(0)
    }

    async fn hear(&mut self) -> Incoming {
        loop {
            if let Some(incoming) = self.reader.next(&mut self.buffer).unwrap() {
                return incoming;
            }
            assert!(self.fill().await > 0, "we closed on the stranger");
        }
    }

    /// Reads to the end: what comes before it does not matter.
    async fn is_closed_on(&mut self) {
        while self.fill().await > 0 {}
    }
}

fn event(sequence: u64) -> BytesMut {
    event_of(TOPIC, sequence)
}

fn event_of(topic: &str, sequence: u64) -> BytesMut {
    let envelope = Envelope {
        publisher_id: PublisherId(7),
        sequence,
        published_at_ms: 1,
        topic: topic.into(),
        payload: Bytes::from_static(&[0x90]),
    };
    encode_message(&envelope.to_zmq().unwrap())
}

#[tokio::test]
async fn both_forms_of_subscription_are_taken_and_taken_back() {
    for minor in [0, 1] {
        let publisher = publisher().await;
        let mut stranger = Stranger::dial(&publisher).await;
        stranger.greet(minor, "SUB").await;
        stranger.say(&Greeting { minor }.subscription(b"kv-")).await;
        until("subscribed", || publisher.subscribers() == 1).await;
        publisher.publish(&1).await.unwrap();
        let Incoming::Message(frames) = stranger.hear().await else { panic!("no message") };
        assert_eq!(Envelope::from_zmq(&frames).unwrap().publisher_id, publisher.id());
        match minor {
            0 => stranger.say(b"\x00\x04\x00kv-").await,
            _ => stranger.tell(Command::Cancel(Bytes::from_static(b"kv-"))).await,
        }
        until("no longer subscribed", || publisher.subscribers() == 0).await;
    }
}

#[tokio::test]
async fn a_subscriber_speaks_the_form_that_an_old_publisher_knows() {
    for minor in [0, 1] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
        let mut subscriber = Subscriber::connect(&endpoint, TOPIC).await.unwrap();
        let mut stranger = Stranger::new(listener.accept().await.unwrap().0);
        stranger.greet(minor, "PUB").await;
        match (minor, stranger.hear().await) {
            (0, Incoming::Message(frames)) => assert_eq!(frames, [&b"\x01kv-events"[..]]),
            (1, Incoming::Command(Command::Subscribe(topic))) => assert_eq!(topic, TOPIC),
            (_, other) => panic!("3.{minor}: {other:?}"),
        }
        within_a_minute("it knows that it subscribed", subscriber.subscribed()).await;
        stranger.say(&event(41)).await;
        assert_eq!(next(&mut subscriber).await.sequence, 41);
    }
}

#[tokio::test]
async fn heartbeats_are_answered_on_both_sides() {
    let ping = || Command::Ping(Bytes::from_static(b"42"));
    let publisher = publisher().await;
    let mut stranger = Stranger::dial(&publisher).await;
    stranger.greet(1, "SUB").await;
    stranger.tell(ping()).await;
    assert_eq!(stranger.hear().await, Incoming::Command(Command::Pong(Bytes::from_static(b"42"))));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    let _subscriber = Subscriber::connect(&endpoint, TOPIC).await.unwrap();
    let mut stranger = Stranger::new(listener.accept().await.unwrap().0);
    stranger.greet(1, "PUB").await;
    assert!(matches!(stranger.hear().await, Incoming::Command(Command::Subscribe(_))));
    stranger.tell(ping()).await;
    assert_eq!(stranger.hear().await, Incoming::Command(Command::Pong(Bytes::from_static(b"42"))));
}

#[tokio::test]
async fn a_stranger_that_is_no_subscriber_is_closed_on_and_the_publisher_goes_on() {
    let publisher = publisher().await;
    let mut oversize = BytesMut::from(&[2_u8][..]);
    oversize.put_u64(FRAME_BYTES_MAX as u64 + 1);
    let mut too_long_command = BytesMut::from(&[6_u8][..]);
    too_long_command.put_u64(u64::MAX);

    let mut garbage = Stranger::dial(&publisher).await;
    garbage.say(b"GET /metrics HTTP/1.1\r\nHost: worker\r\n\r\n").await;
    garbage.is_closed_on().await;

    let mut wrong_type = Stranger::dial(&publisher).await;
    wrong_type.greet(1, "REQ").await;
    wrong_type.is_closed_on().await;

    for bytes in [&oversize[..], &too_long_command[..], &[0xf8, 1], &[4, 1, 200]] {
        let mut stranger = Stranger::dial(&publisher).await;
        stranger.greet(1, "SUB").await;
        stranger.say(bytes).await;
        stranger.is_closed_on().await;
    }
    super::subscriber(&publisher).await;
}

#[tokio::test]
async fn a_publisher_that_breaks_the_rules_is_left_and_dialled_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    let mut subscriber = Subscriber::connect(&endpoint, TOPIC).await.unwrap();
    let mut oversize = BytesMut::from(&[2_u8][..]);
    oversize.put_u64(FRAME_BYTES_MAX as u64 + 1);

    let mut garbage = Stranger::new(listener.accept().await.unwrap().0);
    garbage.say(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    garbage.is_closed_on().await;

    let mut endless = Stranger::new(within_a_minute("dialled again", listener.accept()).await.unwrap().0);
    endless.greet(1, "PUB").await;
    endless.say(&oversize).await;
    endless.is_closed_on().await;

    let mut good = Stranger::new(within_a_minute("dialled again", listener.accept()).await.unwrap().0);
    good.greet(1, "PUB").await;
    // A message that is no event is skipped; the connection and the events behind it are kept.
    good.say(&encode_message(&[Bytes::from_static(b"kv-events"), Bytes::from_static(b"?")])).await;
    good.say(&event(5)).await;
    assert_eq!(next(&mut subscriber).await.sequence, 5);
}

#[tokio::test]
async fn a_topic_that_only_begins_the_same_is_not_handed_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    let mut subscriber = Subscriber::connect(&endpoint, TOPIC).await.unwrap();
    let mut stranger = Stranger::new(listener.accept().await.unwrap().0);
    stranger.greet(1, "PUB").await;
    stranger.say(&event_of("kv-events-of-another-kind", 1)).await;
    stranger.say(&event(2)).await;
    assert_eq!(next(&mut subscriber).await.sequence, 2);
}
