//! A platform on a Kubernetes cluster: check, push, install, apply, wait, ask; and all of it back.
//!
//! Nothing is kept on this machine: what `up` made is written into the cluster before it is made ([`record`]), so that a
//! run that was cut off at any point is finished, or undone, by the next one from anywhere.

pub mod apply;
pub mod ask;
pub mod chart;
pub mod connect;
pub mod diff;
pub mod down;
mod error;
pub mod helm;
pub mod leftovers;
mod object;
pub mod pods;
pub mod preflight;
pub mod record;
pub mod up;
pub mod wait;

pub use connect::Cluster;
pub use error::ClusterError;

use tokio_util::sync::CancellationToken;

/// Field manager of everything that is applied here.
pub const FIELD_MANAGER: &str = "busbar";

/// What is told on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Goes on now, until the next; the same text again says that it still does.
    Stage(String),
    /// Happened, and is worth a line that stays.
    Line(String),
}

/// Who is told.
pub type Tell<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// Waits for `act`, or for the token.
///
/// # Errors
/// [`ClusterError::Interrupted`] when the token comes first; `act` is dropped at its next await.
pub(crate) async fn unless<T>(
    stop: &CancellationToken,
    act: impl Future<Output = Result<T, ClusterError>>,
) -> Result<T, ClusterError> {
    tokio::select! {
        done = act => done,
        () = stop.cancelled() => Err(ClusterError::Interrupted),
    }
}
