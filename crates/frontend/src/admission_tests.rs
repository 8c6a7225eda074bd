//! The gate alone, and the gate under overload in paused time.

use super::*;
use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::atomic::{AtomicUsize, Ordering};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn past_the_places_requests_wait_and_past_the_queue_they_are_refused() {
    let admission = Admission::new(1, 1, HOUR);
    let first = admission.admit().await.unwrap();
    let mut second = Box::pin(admission.admit());
    assert!(second.as_mut().now_or_never().is_none(), "the second waits");
    assert_eq!(admission.waiting(), 1);
    assert!(admission.is_full());
    assert_eq!(admission.admit().await.unwrap_err(), Refusal::QueueFull);
    drop(first);
    let second = second.await.unwrap();
    assert_eq!(admission.waiting(), 0);
    assert!(!admission.is_full(), "one may wait again");
    drop(second);
    assert!(admission.admit().now_or_never().unwrap().is_ok(), "the place is free again");
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_after_its_bound() {
    let admission = Admission::new(1, 1, Duration::from_secs(30));
    let _held = admission.admit().await.unwrap();
    assert_eq!(admission.admit().await.unwrap_err(), Refusal::WaitedTooLong);
    assert_eq!(admission.waiting(), 0);
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_makes_room() {
    let admission = Admission::new(1, 1, HOUR);
    let _held = admission.admit().await.unwrap();
    let mut gone = Box::pin(admission.admit());
    assert!(gone.as_mut().now_or_never().is_none());
    drop(gone);
    assert_eq!(admission.waiting(), 0);
}

#[tokio::test]
async fn a_place_that_reaches_a_client_which_has_just_left_is_given_on() {
    let admission = Admission::new(1, 2, HOUR);
    let held = admission.admit().await.unwrap();
    let (mut first, mut second) = (Box::pin(admission.admit()), Box::pin(admission.admit()));
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    // The place is on its way to the first, which never looks at it.
    drop(held);
    drop(first);
    assert!(second.now_or_never().expect("the place went on to the second").is_ok());
}

/// Who is let in, in order, when three wait and the place is given on `after` the first of them came.
async fn order_of_three(after: Duration) -> Vec<usize> {
    let admission = Admission::new(1, 3, HOUR);
    let held = admission.admit().await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let waiters: Vec<_> = (0..3)
        .map(|number| {
            let (admission, order) = (admission.clone(), order.clone());
            tokio::spawn(async move {
                let _permit = admission.admit().await.unwrap();
                order.lock().push(number);
            })
        })
        .collect();
    while admission.waiting() < 3 {
        tokio::task::yield_now().await;
    }
    tokio::time::advance(after).await;
    drop(held);
    futures::future::join_all(waiters).await;
    Arc::try_unwrap(order).unwrap().into_inner()
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_served_in_order_and_a_standing_queue_newest_first() {
    assert_eq!(order_of_three(STANDING_AFTER / 2).await, [0, 1, 2]);
    assert_eq!(order_of_three(STANDING_AFTER).await, [2, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn the_longer_the_queue_has_stood_the_later_a_refused_client_should_come_back() {
    let admission = Admission::new(1, 1, HOUR);
    let held = admission.admit().await.unwrap();
    assert_eq!(admission.come_back().as_secs(), 1, "nobody waits");
    let mut waiter = Box::pin(admission.admit());
    assert!(waiter.as_mut().now_or_never().is_none());
    tokio::time::advance(Duration::from_secs(7)).await;
    assert_eq!(admission.come_back().as_secs(), 7);
    tokio::time::advance(Duration::from_secs(700)).await;
    assert_eq!(admission.come_back(), COME_BACK_MAX);
    drop(held);
    drop(waiter.await.unwrap());
    assert_eq!(admission.come_back().as_secs(), 1, "the queue is empty again");
}

/// 20 places, answers of 2 s: 10 a second at best. A client gives up 6 s after it asked, and its answer is lost work.
const PLACES: usize = 20;
const ANSWER: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(6);
const PEAK_PER_SECOND: f64 = 10.0;
const RUN: Duration = Duration::from_secs(300);

#[derive(Default)]
struct Count {
    answered: AtomicUsize,
    refused: AtomicUsize,
    refused_late: AtomicUsize,
    gave_up: AtomicUsize,
}

/// Clients that come at random, `load` times as many as can be served; a refused one does not come again.
async fn under_load(load: f64) -> Count {
    let admission = Admission::new(PLACES, 100, Duration::from_secs(30));
    let count = Arc::new(Count::default());
    let mut chance = StdRng::seed_from_u64(53);
    let (start, mut clients) = (Instant::now(), Vec::new());
    while start.elapsed() < RUN {
        let gap = -(1.0 - chance.random::<f64>()).ln() / (load * PEAK_PER_SECOND);
        tokio::time::sleep(Duration::from_secs_f64(gap)).await;
        let (admission, count) = (admission.clone(), count.clone());
        clients.push(tokio::spawn(async move {
            let asked = Instant::now();
            let answer = async {
                match admission.admit().await {
                    Ok(_permit) => {
                        tokio::time::sleep(ANSWER).await;
                        count.answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) if asked.elapsed() > Duration::from_millis(50) => {
                        count.refused_late.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => {
                        count.refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            };
            if tokio::time::timeout(PATIENCE, answer).await.is_err() {
                count.gave_up.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    futures::future::join_all(clients).await;
    Arc::try_unwrap(count).ok().expect("every client has ended")
}

/// Scenario 53: what is answered in time under overload, against the most that can be.
#[tokio::test(start_paused = true)]
async fn goodput_holds_at_twice_and_five_times_the_load_and_the_excess_is_refused_at_once() {
    for (load, goodput_min) in [(2.0, 0.95), (5.0, 0.90)] {
        let count = under_load(load).await;
        let answered = count.answered.into_inner() as f64;
        let goodput = answered / (PEAK_PER_SECOND * RUN.as_secs_f64());
        let (refused, gave_up) = (count.refused.into_inner(), count.gave_up.into_inner());
        assert!(goodput >= goodput_min, "load {load}: goodput {goodput:.3}, {refused} refused, {gave_up} gave up");
        assert_eq!(count.refused_late.into_inner(), 0, "a refusal is told within 50 ms");
        assert!(refused > 0, "load {load}: the excess is refused");
    }
}
