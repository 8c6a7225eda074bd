//! What the network in memory promises, and the faults that it makes.

use super::{MemoryNetwork, Weather};
use crate::world::{Stream, World};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

fn network(weather: Weather) -> (MemoryNetwork, World, World) {
    let network = MemoryNetwork::new(weather, 7);
    let (a, b) = (network.machine(A, 1), network.machine(B, 2));
    (network, a, b)
}

/// A connection from `a` to `b`: both ends.
async fn connected(a: &World, b: &World) -> (Stream, Stream) {
    let mut listener = b.listen("0.0.0.0", 0).await.unwrap();
    let near = a.dial(&listener.local_addr().unwrap().to_string()).await.unwrap();
    let (far, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.ip(), A);
    (near, far)
}

async fn hears(stream: &mut Stream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_whole_and_in_order_whatever_the_weather() {
    for weather in [Weather::FAIR, Weather { delay_ms_max: 20, piece_bytes_max: 3 }] {
        let (_network, a, b) = network(weather);
        let (mut near, mut far) = connected(&a, &b).await;
        let sent: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let (write, heard) = (near.write_all(&sent), hears(&mut far, sent.len()));
        let (written, heard) = tokio::join!(write, heard);
        written.unwrap();
        assert!(heard == sent, "{weather:?}");
        drop(near);
        assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0, "the end of the stream");
        assert_eq!(far.write_all(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_answers_where_nobody_listens_and_a_port_is_free_again_after_its_listener() {
    let (_network, a, b) = network(Weather::FAIR);
    assert_eq!(a.dial("10.0.0.2:7").await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let listener = b.listen("0.0.0.0", 7).await.unwrap();
    assert_eq!(b.listen("0.0.0.0", 7).await.unwrap_err().kind(), ErrorKind::AddrInUse);
    a.dial("10.0.0.2:7").await.unwrap();
    drop(listener);
    b.listen("0.0.0.0", 7).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cut_is_an_error_at_both_ends_and_a_kill_is_an_end_at_the_other() {
    let (network, a, b) = network(Weather::FAIR);
    let (mut near, mut far) = connected(&a, &b).await;
    network.cut(A, B);
    assert_eq!(near.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(far.write_all(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (mut near, mut far) = connected(&a, &b).await;
    far.write_all(b"last words").await.unwrap();
    network.kill(B);
    assert_eq!(hears(&mut near, 10).await, b"last words");
    assert_eq!(near.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_arrives_after_the_release_and_the_other_direction_meanwhile() {
    let (network, a, b) = network(Weather::FAIR);
    let (mut near, mut far) = connected(&a, &b).await;
    network.hold(A, B);
    near.write_all(b"held").await.unwrap();
    far.write_all(b"free").await.unwrap();
    assert_eq!(hears(&mut near, 4).await, b"free");
    assert!(timeout(Duration::from_secs(60), hears(&mut far, 1)).await.is_err());
    let start = Instant::now();
    let dial = b.dial("10.0.0.1:9");
    let release = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        network.release(A, B);
    };
    let (dialled, ()) = tokio::join!(dial, release);
    assert_eq!(dialled.unwrap_err().kind(), ErrorKind::ConnectionRefused, "an answer at last");
    assert_eq!(start.elapsed().as_secs(), 3);
    assert_eq!(hears(&mut far, 4).await, b"held");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_machine_takes_connections_and_says_nothing_until_it_goes_on() {
    let (network, a, b) = network(Weather::FAIR);
    let mut listener = b.listen("0.0.0.0", 7).await.unwrap();
    network.freeze(B);
    let mut near = a.dial("10.0.0.2:7").await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    far.write_all(b"late").await.unwrap();
    assert!(timeout(Duration::from_secs(60), hears(&mut near, 1)).await.is_err());
    network.thaw(B);
    assert_eq!(hears(&mut near, 4).await, b"late");
    assert_eq!(network.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_connection_makes_its_writer_wait() {
    let (_network, a, b) = network(Weather::FAIR);
    let (near, mut far) = connected(&a, &b).await;
    let (_read, write) = near.into_split();
    let mut sent = 0;
    while let Ok(count) = write.try_write(&[0; 10_000]) {
        sent += count;
    }
    assert!(timeout(Duration::from_secs(1), write.writable()).await.is_err());
    hears(&mut far, sent).await;
    write.writable().await.unwrap();
    write.forget();
    assert!(timeout(Duration::from_secs(1), far.read(&mut [0; 1])).await.is_err(), "forgotten is not ended");
}
