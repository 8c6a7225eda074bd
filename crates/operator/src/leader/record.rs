//! The lease in the API server: read, written with the version that it replaces, released.

use super::LeaderConfig;
pub(super) use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use std::time::Duration;

/// A call to the API server came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// It answered something else, or could not be reached.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// It did not answer.
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
}

/// What a write came to.
pub(super) enum Outcome {
    Written(Box<Lease>),
    /// It is of another version by now, or was made meanwhile.
    Conflict,
    /// It is not there.
    Gone,
}

pub(super) fn holder(lease: &Lease) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref().filter(|holder| !holder.is_empty())
}

pub(super) fn transitions(lease: &Lease) -> i32 {
    lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default()
}

/// A lease where there is none.
pub(super) fn first(config: &LeaderConfig) -> Lease {
    let metadata = ObjectMeta {
        name: Some(config.name.clone()),
        namespace: Some(config.k8s_namespace.clone()),
        ..ObjectMeta::default()
    };
    taken(Lease { metadata, spec: None }, config)
}

/// `lease`, ours from now on.
pub(super) fn taken(mut lease: Lease, config: &LeaderConfig) -> Lease {
    let transitions = lease.spec.as_ref().map_or(0, |_| transitions(&lease).saturating_add(1));
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(config.identity.clone());
    spec.lease_transitions = Some(transitions);
    spec.acquire_time = Some(now());
    renewed(lease, config)
}

/// `lease`, renewed.
pub(super) fn renewed(mut lease: Lease, config: &LeaderConfig) -> Lease {
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    // Rounded up: others must not count to less than we do.
    let seconds = config.duration.as_secs() + u64::from(config.duration.subsec_nanos() > 0);
    spec.lease_duration_seconds = i32::try_from(seconds).ok();
    spec.renew_time = Some(now());
    lease
}

/// For people who look at the lease; nobody compares it with a clock.
fn now() -> MicroTime {
    MicroTime(Timestamp::now())
}

pub(super) async fn read(api: &Api<Lease>, name: &str, within: Duration) -> Result<Option<Lease>, CallError> {
    Ok(tokio::time::timeout(within, api.get_opt(name)).await.map_err(|_| CallError::Late(within))??)
}

/// Creates `lease`, or replaces the version that it came from.
pub(super) async fn write(api: &Api<Lease>, lease: &Lease, within: Duration) -> Result<Outcome, CallError> {
    let name = lease.metadata.name.as_deref().unwrap_or_default();
    let parameters = PostParams::default();
    let written = async {
        match lease.metadata.resource_version {
            Some(_) => api.replace(name, &parameters, lease).await,
            None => api.create(&parameters, lease).await,
        }
    };
    match tokio::time::timeout(within, written).await.map_err(|_| CallError::Late(within))? {
        Ok(lease) => Ok(Outcome::Written(Box::new(lease))),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Outcome::Conflict),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Outcome::Gone),
        Err(error) => Err(error.into()),
    }
}

/// Frees the lease for the next one. Where that fails it runs out by itself.
pub(super) async fn release(api: &Api<Lease>, mut lease: Lease, within: Duration) {
    if let Some(spec) = &mut lease.spec {
        spec.holder_identity = None;
        spec.renew_time = Some(now());
    }
    if let Err(error) = write(api, &lease, within).await {
        tracing::debug!(error = %error, "the lease could not be released; it runs out by itself");
    }
}
