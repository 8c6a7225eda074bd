//! What a model's conditions say, and what to do.

use crds::v1alpha1::ModelSpec;
use graph::Finding;
use graph::model_cache::ModelCache;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

/// The model's files are on its claim.
pub const CACHED: &str = "Cached";
/// Pods serve the base model.
pub const ENDPOINTS_READY: &str = "EndpointsReady";

/// How far a model's cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheState {
    /// The annotations make no sense.
    Invalid(Vec<Finding>),
    /// This operator does not know its own image.
    NoImage,
    /// The claim is not there, and no size says that it should be made.
    NoClaim(ModelCache),
    /// A Job is there.
    Fetching {
        /// What it fetches, where to.
        cache: ModelCache,
        /// How it is.
        job: JobState,
    },
}

/// How a fetch is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobState {
    /// It has ended well.
    pub is_complete: bool,
    /// Why it was given up.
    pub failure: Option<String>,
    /// Pods that failed so far.
    pub pods_failed: u64,
    /// Pods that run.
    pub pods_active: u64,
    /// What the last failed pod said last.
    pub last_line: Option<String>,
}

impl JobState {
    /// Reads a Job.
    pub fn read(job: &Value) -> Self {
        let status = &job["status"];
        let none = Vec::new();
        let conditions = status["conditions"].as_array().unwrap_or(&none);
        let holds = |wanted: &str| {
            conditions.iter().find(|condition| condition["type"] == wanted && condition["status"] == "True")
        };
        let text = |condition: &Value| {
            let of = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
            format!("{}: {}", of("reason"), of("message"))
        };
        Self {
            is_complete: holds("Complete").is_some(),
            failure: holds("Failed").map(text),
            pods_failed: status["failed"].as_u64().unwrap_or(0),
            pods_active: status["active"].as_u64().unwrap_or(0),
            last_line: None,
        }
    }
}

/// [`CACHED`], with the remedy in its message. `old` gives the time of the last change.
pub fn cached_condition(state: &CacheState, old: &[Condition], generation: Option<i64>) -> Condition {
    let (holds, reason, message) = match state {
        CacheState::Invalid(findings) => {
            let all: Vec<_> = findings.iter().map(ToString::to_string).collect();
            (false, "InvalidCache", all.join(" · "))
        }
        CacheState::NoImage => (
            false,
            "NoImage",
            "the operator does not know Busbar's image; start it with --image IMAGE (the chart does)".to_owned(),
        ),
        CacheState::NoClaim(cache) => (
            false,
            "NoClaim",
            format!(
                "the claim {} is not there; make it, or add the annotation {} with its size",
                cache.claim,
                graph::model_cache::SIZE
            ),
        ),
        CacheState::Fetching { cache, job } => fetching(cache, job),
    };
    condition(CACHED, holds, reason, message, (old, generation))
}

fn fetching(cache: &ModelCache, job: &JobState) -> (bool, &'static str, String) {
    let (source, claim) = (&cache.source, &cache.claim);
    let said = job.last_line.as_ref().map_or_else(String::new, |line| format!("; the last try said: {line}"));
    if job.is_complete {
        return (true, "Fetched", format!("{source} is on the claim {claim}"));
    }
    if let Some(failure) = &job.failure {
        let remedy = "delete the Job to try again once the cause is gone";
        return (false, "FetchFailed", format!("{source} was not fetched: {failure}{said}; {remedy}"));
    }
    if job.pods_failed > 0 {
        let message = format!("{source} is fetched to the claim {claim}, {} tries failed{said}", job.pods_failed);
        return (false, "FetchRetrying", message);
    }
    (false, "Fetching", format!("{source} is fetched to the claim {claim}"))
}

/// [`ENDPOINTS_READY`] for `ready` of `total` pods. The last argument holds the old conditions and the generation.
pub fn endpoints_condition(
    model: &ModelSpec,
    ready: usize,
    total: usize,
    known: (&[Condition], Option<i64>),
) -> Condition {
    let base = &model.base_model_name;
    let is_base = matches!(model.model_type.as_deref(), None | Some("base"));
    let (holds, reason, message) = match (is_base, ready, total) {
        (false, ..) => (
            false,
            "AdaptersNotLoaded",
            "adapters are not loaded by this operator; name them in the arguments of the workers".to_owned(),
        ),
        (true, _, 0) => (
            false,
            "NoEndpoints",
            format!("no component of this Kubernetes namespace serves {base}; give one `modelRef: {{name: {base}}}`"),
        ),
        (true, 0, total) => (false, "EndpointsNotReady", format!("none of {total} pods that serve {base} is ready")),
        (true, ready, total) => {
            (true, "EndpointsReady", format!("{ready} of {total} pods that serve {base} are ready"))
        }
    };
    condition(ENDPOINTS_READY, holds, reason, message, known)
}

fn condition(
    name: &str,
    holds: bool,
    reason: &str,
    message: String,
    (old, generation): (&[Condition], Option<i64>),
) -> Condition {
    let status = if holds { "True" } else { "False" }.to_owned();
    let same = old.iter().find(|condition| condition.type_ == name && condition.status == status);
    Condition {
        type_: name.to_owned(),
        last_transition_time: same.map_or_else(|| Time(Timestamp::now()), |old| old.last_transition_time.clone()),
        status,
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
    }
}
