//! Threads for work on text (parsing large bodies, templates, tokenizing), off the threads that do I/O.
//!
//! Text work cannot be stopped once it runs, so a costly text must not be able to hold every thread: large texts have
//! lanes of their own, and whoever waits for one is told after a bound, while its work ends in its own lane.

use crate::openai::ApiError;
use crate::server::failure;
use runtime::world::World;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Bodies over this go to the lanes for large ones. A 16k-token chat is about this size; it tokenizes in some
/// milliseconds.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Longest wait for a turn. The small lanes turn over in milliseconds.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);
/// Longest time for one text. 16 MiB of ordinary text tokenize in 2 s.
const WORK_TIME_MAX: Duration = Duration::from_secs(10);

/// The turns of both kinds.
#[derive(Debug)]
pub(crate) struct TextThreads {
    world: World,
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl TextThreads {
    /// For `world`, a machine of so many cores: as many small texts at once, so that text never starves the streams,
    /// and half as many large ones beside them.
    pub(crate) fn new(world: World, cores: usize) -> Self {
        let cores = cores.max(1);
        let (small, large) = (Semaphore::new(cores), Semaphore::new((cores / 2).max(1)));
        Self { world, small: Arc::new(small), large: Arc::new(large) }
    }

    /// Runs `work` on a text of so many bytes.
    ///
    /// # Errors
    /// What `work` gives; 503 when no turn came; 400 when the text took too long: it still holds its turn until its end.
    pub(crate) async fn run<T, F>(&self, bytes: usize, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, ApiError> + Send + 'static,
    {
        let lane = if bytes <= SMALL_BYTES_MAX { &self.small } else { &self.large };
        let turn = match tokio::time::timeout(TURN_WAIT_MAX, lane.clone().acquire_owned()).await {
            Ok(Ok(turn)) => turn,
            // Never closed.
            Ok(Err(_)) => return Err(failure::internal()),
            Err(_) => return Err(failure::unavailable("Too many large texts are being tokenized. Try again later.")),
        };
        let run = move || {
            let _turn = turn;
            work()
        };
        match tokio::time::timeout(WORK_TIME_MAX, self.world.off_thread(run)).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => {
                tracing::error!(%error, "text work panicked");
                Err(failure::internal())
            }
            Err(_) => {
                tracing::warn!(bytes, limit_s = WORK_TIME_MAX.as_secs(), "a text took too long and was given up");
                Err(failure::too_costly(WORK_TIME_MAX))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::sync::mpsc;

    const LARGE: usize = SMALL_BYTES_MAX + 1;

    /// Scenario 58: texts that never end hold the large lanes and nothing else.
    #[tokio::test]
    async fn texts_that_never_end_hold_no_lane_of_the_small_ones() {
        let threads = Arc::new(TextThreads::new(World::default(), 4));
        let (release, held) = mpsc::sync_channel::<()>(1);
        let held = Arc::new(std::sync::Mutex::new(held));
        let bombs: Vec<_> = (0..8)
            .map(|_| {
                let (threads, held) = (threads.clone(), held.clone());
                let bomb = move || {
                    // Until the test lets go; whether it says so or is over is the same.
                    let _ = held.lock().map(|held| held.recv());
                    Ok(())
                };
                tokio::spawn(async move { threads.run(LARGE, bomb).await })
            })
            .collect();
        while threads.large.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        for round in 0..100 {
            assert_eq!(threads.run(SMALL_BYTES_MAX, move || Ok(round)).await, Ok(round));
        }
        drop(release);
        for bomb in bombs {
            assert_eq!(bomb.await.unwrap(), Ok(()), "each has its turn in the end");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_text_that_takes_too_long_is_told_so_while_its_turn_is_still_held() {
        let threads = TextThreads::new(World::default(), 1);
        let (release, held) = mpsc::sync_channel::<()>(1);
        let mut bomb = Box::pin(threads.run(LARGE, move || Ok(held.recv().is_ok())));
        assert!(bomb.as_mut().now_or_never().is_none());
        // By hand: time does not pass by itself while a blocking thread works.
        tokio::time::advance(WORK_TIME_MAX).await;
        let error = bomb.await.unwrap_err();
        assert_eq!((error.status, error.code), (400, Some("text_too_costly")));
        assert_eq!(threads.large.available_permits(), 0, "the work runs on");
        let mut waiter = Box::pin(threads.run(LARGE, || Ok(())));
        assert!(waiter.as_mut().now_or_never().is_none());
        tokio::time::advance(TURN_WAIT_MAX).await;
        let error = waiter.await.unwrap_err();
        assert_eq!(error.status, 503, "no turn came: {error}");
        drop(release);
        while threads.large.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_panic_is_the_requests_own() {
        let threads = TextThreads::new(World::default(), 1);
        let error = threads.run::<(), _>(1, || panic!("as the test says")).await.unwrap_err();
        assert_eq!(error.status, 500);
        assert_eq!(threads.run(1, || Ok(7)).await, Ok(7));
    }
}
