//! Does it serve? One question to each graph, and a look at the text of the answer.
//!
//! A laptop has no way to a Service's address. The API server does: what is asked goes through its proxy of Services, with
//! the caller's own credentials, and needs no port of this machine.

use super::{Cluster, ClusterError, Progress, Tell, wait};
use kube::Client;
use kube::api::{GetParams, PostParams};
use kube::core::Request;
use plan::Question;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a ready graph may take to list a model and to answer: its frontend learns of workers a moment after they are
/// ready, and a first answer may compile kernels.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);
/// Letters of an error's body that are repeated.
const SAID_CHARS_MAX: usize = 400;

/// What was asked, and what came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The graph.
    pub graph: String,
    /// Where it is.
    #[serde(rename = "k8s_namespace")]
    pub k8s_namespace: String,
    /// The frontend's Service, and its port.
    pub service: String,
    /// Port of the Service.
    pub port: u16,
    /// The model that was asked.
    pub model: String,
    /// The question.
    pub question: String,
    /// The text of the answer.
    pub text: String,
}

/// Asks a graph.
///
/// # Errors
/// [`ClusterError::Answer`] when no model is listed, no answer comes, its text is empty, or it does not match.
pub async fn ask(cluster: &Cluster, question: &Question, tell: Tell<'_>) -> Result<Answer, ClusterError> {
    let failed = |problem: String| ClusterError::Answer { graph: question.graph.clone(), problem };
    let expected = match &question.expect {
        Some(pattern) => Some(regex::Regex::new(pattern).map_err(|error| failed(error.to_string()))?),
        None => None,
    };
    let mut last = "no model is listed".to_owned();
    let started = std::time::Instant::now();
    let (model, text) = loop {
        tell(Progress::Stage(format!("asking graph {}: {last}", question.graph)));
        match exchange(&cluster.client, question).await {
            Ok(Some(answer)) => break answer,
            Ok(None) => "no model is listed".clone_into(&mut last),
            Err(error) if may_pass(&error) => last = said(&error),
            Err(error) => return Err(failed(said(&error))),
        }
        if started.elapsed() >= ANSWER_TIMEOUT {
            return Err(failed(format!("{last}, for {} s", ANSWER_TIMEOUT.as_secs())));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    if text.trim().is_empty() {
        return Err(failed("the answer has no text".to_owned()));
    }
    if let Some(expected) = expected.filter(|expected| !expected.is_match(&text)) {
        return Err(failed(format!("`{}` does not match /{expected}/", text.trim())));
    }
    Ok(Answer {
        graph: question.graph.clone(),
        k8s_namespace: question.k8s_namespace.clone(),
        service: question.service.clone(),
        port: question.port,
        model,
        question: question.question.clone(),
        text: text.trim().to_owned(),
    })
}

/// Asks every graph, in order.
///
/// # Errors
/// That of the first graph that does not answer as it should.
pub async fn ask_all(cluster: &Cluster, questions: &[Question], tell: Tell<'_>) -> Result<Vec<Answer>, ClusterError> {
    let mut answers = Vec::with_capacity(questions.len());
    for question in questions {
        answers.push(ask(cluster, question, tell).await?);
    }
    Ok(answers)
}

/// Model and text; `None` while no model is listed.
async fn exchange(client: &Client, question: &Question) -> Result<Option<(String, String)>, kube::Error> {
    let base = format!(
        "/api/v1/namespaces/{}/services/{}:{}/proxy/v1",
        question.k8s_namespace, question.service, question.port
    );
    let models = Request::new(&base).get("models", &GetParams::default()).map_err(kube::Error::BuildRequest)?;
    let models: Value = client.request(models).await?;
    let Some(model) = models.pointer("/data/0/id").and_then(Value::as_str) else { return Ok(None) };
    let body = json!({
        "model": model,
        "messages": [{ "role": "user", "content": question.question }],
        "max_tokens": question.max_tokens,
        "temperature": 0,
    });
    let asked = Request::new(format!("{base}/chat/completions"))
        .create(&PostParams::default(), body.to_string().into_bytes())
        .map_err(kube::Error::BuildRequest)?;
    let answer: Value = client.request(asked).await?;
    let message = &answer["choices"][0]["message"];
    // A model that thinks may spend all of a short answer on it.
    let text = ["content", "reasoning_content"].iter().find_map(|key| message[*key].as_str().filter(|t| !t.is_empty()));
    Ok(Some((model.to_owned(), text.unwrap_or_default().to_owned())))
}

/// Not there yet, as opposed to wrong.
fn may_pass(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 404 | 429 | 500 | 502 | 503 | 504),
        kube::Error::Service(_) | kube::Error::HyperError(_) => true,
        _ => false,
    }
}

fn said(error: &kube::Error) -> String {
    let text = match error {
        kube::Error::Api(status) => format!("{} {}", status.code, status.message),
        other => super::preflight::chain(other),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SAID_CHARS_MAX).collect()
}

/// The two lines by which a person asks too.
pub fn try_it(answer: &Answer, context: Option<&str>) -> [String; 2] {
    let context = context.map_or(String::new(), |name| format!(" --context {name}"));
    let body = json!({ "model": answer.model, "messages": [{ "role": "user", "content": answer.question }] });
    let body = body.to_string().replace('\'', "'\\''");
    [
        format!(
            "kubectl{context} -n {} port-forward service/{} {}:{}",
            answer.k8s_namespace, answer.service, answer.port, answer.port
        ),
        format!(
            "curl -s http://127.0.0.1:{}/v1/chat/completions -H 'content-type: application/json' -d '{body}'",
            answer.port
        ),
    ]
}

/// Whether each graph of the plan is ready, without waiting.
///
/// # Errors
/// [`ClusterError::NotReady`] with what the first that is not says.
pub async fn require_ready(cluster: &Cluster, plan: &plan::Plan, tell: Tell<'_>) -> Result<(), ClusterError> {
    wait::graphs(cluster, plan, Duration::ZERO, tell).await
}
