//! From one API version to the other and back, losing nothing.
//!
//! Each kind has two pure functions, forth and back, over what both versions can say. What the target cannot say is kept
//! as a list of changes in the annotation [`REMAINDER`] of the converted object and put back when the object returns.
//! The fields of the object that was given always win: a kept change is put back only where it alters nothing that the
//! given version can say ([`remainder`]).
//!
//! Objects are converted as JSON, not through the types: a field that this build does not know (of a later Kubernetes in
//! a pod, say) is carried like any other.
//!
//! Dynamo's operator keeps its own rests under `nvidia.com/dgd-spec` and the like, in another form; they are left as they
//! are.

mod adapter;
mod component;
mod fields;
mod graph;
mod pod;
mod remainder;
mod request;

use remainder::Remainder;
use serde_json::{Map, Value, json};

/// Annotation that holds what the version of its object cannot say.
pub const REMAINDER: &str = "busbar.dev/conversion-remainder";

/// Bytes of the annotation. Kubernetes takes 256 KiB of annotations in all; half is left to their users.
pub const REMAINDER_BYTES_MAX: usize = 128 * 1024;

/// An API version of the kinds that have two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Served.
    V1alpha1,
    /// Stored.
    V1beta1,
}

impl Version {
    /// `v1alpha1` or `v1beta1`.
    pub fn word(self) -> &'static str {
        match self {
            Self::V1alpha1 => "v1alpha1",
            Self::V1beta1 => "v1beta1",
        }
    }

    /// Reads `nvidia.com/v1alpha1` or `nvidia.com/v1beta1`.
    pub fn parse(api_version: &str) -> Option<Self> {
        match api_version.strip_prefix(crate::GROUP)?.strip_prefix('/')? {
            "v1alpha1" => Some(Self::V1alpha1),
            "v1beta1" => Some(Self::V1beta1),
            _ => None,
        }
    }

    /// `nvidia.com/v1alpha1` or `nvidia.com/v1beta1`.
    pub fn api_version(self) -> String {
        format!("{}/{}", crate::GROUP, self.word())
    }
}

/// An object cannot be converted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConversionError {
    /// The kind has one version, or is none of ours.
    #[error("`{0}` is no kind that has two versions")]
    Kind(String),
    /// The version is neither.
    #[error("`{0}` is neither nvidia.com/v1alpha1 nor nvidia.com/v1beta1")]
    Version(String),
    /// The annotation was changed by hand.
    #[error("the annotation {REMAINDER} cannot be read: {0}; remove it")]
    Remainder(String),
    /// The target can say too little of this object.
    #[error(
        "{bytes} bytes of this object cannot be said in {target}, more than {REMAINDER_BYTES_MAX}; make it smaller"
    )]
    TooLarge {
        /// Bytes that would be kept.
        bytes: usize,
        /// The version that was asked for.
        target: &'static str,
    },
}

/// `spec` and `status` of one version to those of the other; the second argument is the object's name.
type Mapping = fn(&Value, &str) -> Value;

/// Converts a whole object; metadata but for [`REMAINDER`] stays as it is.
///
/// Pure. An object that is of version `to` already comes back unchanged.
///
/// # Errors
/// [`ConversionError`]; the object is never half converted.
pub fn convert(object: &Value, to: Version) -> Result<Value, ConversionError> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let from = Version::parse(text("apiVersion")).ok_or_else(|| ConversionError::Version(text("apiVersion").into()))?;
    let (to_beta, to_alpha) = mappings(text("kind")).ok_or_else(|| ConversionError::Kind(text("kind").into()))?;
    if from == to {
        return Ok(object.clone());
    }
    let (there, back) = if to == Version::V1beta1 { (to_beta, to_alpha) } else { (to_alpha, to_beta) };
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let mut metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    let kept = Remainder::take(&mut metadata, to)?;

    let given = body(object);
    let plain = there(&given, name);
    let converted = kept.restore(&plain, &given, &|candidate| back(candidate, name));
    Remainder::between(&given, &back(&converted, name)).put(&mut metadata, from, to)?;

    let mut out = Map::new();
    out.insert("apiVersion".to_owned(), json!(to.api_version()));
    out.insert("kind".to_owned(), json!(text("kind")));
    out.insert("metadata".to_owned(), metadata);
    if let Value::Object(parts) = converted {
        out.extend(parts);
    }
    Ok(Value::Object(out))
}

fn mappings(kind: &str) -> Option<(Mapping, Mapping)> {
    match kind {
        crate::DYNAMO_GRAPH_DEPLOYMENT => Some((graph::to_beta, graph::to_alpha)),
        crate::DYNAMO_COMPONENT_DEPLOYMENT => Some((component::to_beta, component::to_alpha)),
        crate::SCALING_ADAPTER => Some((adapter::to_beta, adapter::to_alpha)),
        crate::DEPLOYMENT_REQUEST => Some((request::to_beta, request::to_alpha)),
        _ => None,
    }
}

/// All but the version, the kind and the metadata.
fn body(object: &Value) -> Value {
    let parts = object.as_object().into_iter().flatten();
    let parts = parts.filter(|(key, _)| !matches!(key.as_str(), "apiVersion" | "kind" | "metadata"));
    Value::Object(parts.map(|(key, value)| (key.clone(), value.clone())).collect())
}
