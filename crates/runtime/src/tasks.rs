//! Owned, named tasks: who spawns a task keeps it, can cancel it, and can wait until it is gone.

use std::future::Future;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// A group of tasks with one owner. Dropping the group cancels its tasks; it does not wait for them.
#[derive(Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// A group that is cancelled when `parent` is, too.
    pub fn under(parent: &CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), token: parent.child_token() }
    }

    /// The token that the group's tasks should watch.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs `future` until it ends or the group is cancelled, whichever is first; on cancel it is dropped at its next
    /// await. A panic ends this task only and is logged with the task's name.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token.clone();
        self.spawn_to_end(name, async move {
            token.run_until_cancelled(future).await;
        });
    }

    /// Like [`Tasks::spawn`], but cancel does not drop the future: it must watch [`Tasks::token`] itself.
    pub fn spawn_to_end<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let guarded = async move {
            if let Err(panic) = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(future)).await {
                tracing::error!(task = name, panic = panic_text(panic.as_ref()), "a task panicked");
            }
        };
        self.tracker.spawn(guarded.instrument(tracing::debug_span!("task", name)));
    }

    /// How many tasks run.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Resolves when no task runs. Tasks may still be spawned while it waits; it waits for them as well.
    pub async fn idle(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Asks the tasks to end, without waiting.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Cancels and waits up to `grace`. `false` when tasks were still running after it; they keep running.
    pub async fn shut_down(&self, grace: Duration) -> bool {
        self.cancel();
        tokio::time::timeout(grace, self.idle()).await.is_ok()
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

/// Waits for `work` to end by itself within `grace`; `false` when it did not.
pub async fn drained_within<F: Future<Output = ()>>(grace: Duration, work: F) -> bool {
    tokio::time::timeout(grace, work).await.is_ok()
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    struct SetOnDrop(Arc<AtomicBool>);
    impl Drop for SetOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn shutting_down_drops_every_task_at_its_next_await() {
        let tasks = Tasks::new();
        let gone = Arc::new(AtomicBool::new(false));
        let guard = SetOnDrop(gone.clone());
        tasks.spawn("sleeper", async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        assert!(tasks.shut_down(Duration::from_secs(30)).await);
        assert!(gone.load(Ordering::SeqCst));
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_task_only() {
        let tasks = Tasks::new();
        let (sent, received) = tokio::sync::oneshot::channel();
        tasks.spawn("panics", async { panic!("on purpose") });
        tasks.spawn("works", async move {
            sent.send(7).unwrap();
        });
        assert_eq!(received.await, Ok(7));
        tasks.idle().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_cancel_is_reported_after_the_grace() {
        let tasks = Tasks::new();
        tasks.spawn_to_end("stubborn", std::future::pending());
        assert!(!tasks.shut_down(Duration::from_secs(5)).await);
        assert_eq!(tasks.running(), 1);
    }
}
