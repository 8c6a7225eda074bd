//! An admission review as JSON, read as far as we need it, and its answers.

use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::{Value, json};

/// What the API server asks.
#[derive(Clone, Debug, Deserialize)]
pub struct Review {
    /// The question.
    pub request: Request,
}

/// The question.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Names the answer.
    pub uid: String,
    /// Kind and version of the objects.
    pub kind: Kind,
    /// What is done.
    pub operation: String,
    /// Name of the object; empty while the API server has not made one.
    #[serde(default)]
    pub name: String,
    /// Who does it.
    #[serde(default)]
    pub user_info: UserInfo,
    /// The object as it is to be.
    #[serde(default)]
    pub object: Value,
    /// The object as it was.
    #[serde(default)]
    pub old_object: Value,
}

/// Kind and version.
#[derive(Clone, Debug, Deserialize)]
pub struct Kind {
    /// `nvidia.com`.
    pub group: String,
    /// `v1alpha1` or `v1beta1`.
    pub version: String,
    /// The kind.
    pub kind: String,
}

/// Who asks.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct UserInfo {
    /// As authenticated: `system:serviceaccount:NAMESPACE:NAME` for a pod.
    #[serde(default)]
    pub username: Option<String>,
}

impl Request {
    /// Whether an object that exists is changed.
    pub fn is_update(&self) -> bool {
        self.operation == "UPDATE"
    }

    /// Whether the object is on its way out: only finalizers still change it, and they must be able to.
    pub fn is_going(&self) -> bool {
        self.object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
    }
}

/// The answer to a review.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Why not; allowed when absent.
    pub refusal: Option<String>,
    /// Shown to the user beside the result.
    pub warnings: Vec<String>,
    /// A JSON patch of the object; empty for none.
    pub patch: Vec<Value>,
}

impl Answer {
    /// The review that goes back.
    pub fn into_review(self, uid: &str) -> Value {
        let mut response = json!({ "uid": uid, "allowed": self.refusal.is_none() });
        if let Some(message) = self.refusal {
            response["status"] = json!({ "code": 422, "reason": "Invalid", "message": message });
        }
        if !self.warnings.is_empty() {
            response["warnings"] = json!(self.warnings);
        }
        if !self.patch.is_empty() {
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(ByteString(json!(self.patch).to_string().into_bytes()));
        }
        json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response })
    }
}
