//! The user's Helm: which it is, what it says of a release, install, upgrade, uninstall.

use super::ClusterError;
use crate::local::state::Identity;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// How long a release may take to be ready. Images of some gigabytes are pulled by graphs, not by the chart.
pub const RELEASE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a Helm that was told to stop may write down that it was.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Revisions that are kept for `helm rollback`.
const HISTORY_MAX: u32 = 10;
/// Letters of Helm's last words that are repeated.
const SAID_CHARS_MAX: usize = 4000;

/// The Helm that is used, and for which cluster.
#[derive(Clone, Debug)]
pub struct Helm {
    /// `helm`, found by PATH, or a path.
    pub program: PathBuf,
    /// Context of the kubeconfig; its current one when absent.
    pub context: Option<String>,
    /// Folder for the chart, the values and the note of a running Helm.
    pub scratch: PathBuf,
}

/// What Helm says of a release.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReleaseStatus {
    /// Its words about it.
    pub info: ReleaseInfo,
    /// All objects, as YAML documents.
    pub manifest: String,
    /// The revision.
    pub version: u32,
}

/// State and description of a release.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReleaseInfo {
    /// `deployed`, `failed`, `pending-install` and so on.
    pub status: String,
    /// What the last change was.
    pub description: String,
    /// When it was, as RFC 3339.
    pub last_deployed: String,
}

impl ReleaseInfo {
    /// Whether some Helm is, or was, in the middle of a change.
    pub fn is_pending(&self) -> bool {
        self.status.starts_with("pending-")
    }
}

/// Note of the Helm that runs for us: when it is dead and the release is pending, it was cut off.
#[derive(Serialize, Deserialize)]
struct Running {
    process: Identity,
    release: String,
}

impl Helm {
    /// Major and minor version; `None` when there is no such program.
    ///
    /// # Errors
    /// What it said in place of a version.
    pub async fn version(&self) -> Result<Option<(u32, u32)>, String> {
        let output = Command::new(&self.program).args(["version", "--template", "{{.Version}}"]).output().await;
        let output = match output {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
            Ok(output) => output,
        };
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        parse_version(&said).map(Some).ok_or_else(|| format!("`{said}` is no version"))
    }

    /// The release, where there is one.
    ///
    /// # Errors
    /// [`ClusterError::Helm`] when Helm cannot tell.
    pub async fn status(&self, release: &plan::Release) -> Result<Option<ReleaseStatus>, ClusterError> {
        let act = format!("helm status {}", release.name);
        let output = self
            .command(&["status", &release.name, "--namespace", &release.k8s_namespace, "--output", "json"])
            .output()
            .await
            .map_err(|error| ClusterError::Helm { act: act.clone(), said: error.to_string() })?;
        if output.status.success() {
            let status = serde_json::from_slice(&output.stdout);
            return status.map(Some).map_err(|error| ClusterError::Helm { act, said: error.to_string() });
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if said.contains("not found") { Ok(None) } else { Err(ClusterError::Helm { act, said }) }
    }

    /// Installs or upgrades to `chart` with `values`. A change of what serves is rolled back when it fails; the first
    /// install is left as it is, so that one can see why, and the next run goes on from there.
    ///
    /// # Errors
    /// [`ClusterError::Helm`] with its words, [`ClusterError::Interrupted`] after it has written down that it was.
    pub async fn upgrade(
        &self,
        release: &plan::Release,
        description: &str,
        serves: bool,
        stop: &CancellationToken,
    ) -> Result<(), ClusterError> {
        let chart = super::chart::unpack(&self.scratch)?;
        let values = self.scratch.join("values.json");
        let text = format!("{:#}\n", release.values);
        std::fs::write(&values, text).map_err(|source| ClusterError::File {
            act: "write",
            path: values.clone(),
            source,
        })?;
        let timeout = format!("{}s", RELEASE_TIMEOUT.as_secs());
        let history = HISTORY_MAX.to_string();
        let (chart, values) = (chart.to_string_lossy().into_owned(), values.to_string_lossy().into_owned());
        let mut words = vec!["upgrade", "--install", &release.name, &chart, "--namespace", &release.k8s_namespace];
        words.extend(["--values", &values, "--wait", "--timeout", &timeout, "--history-max", &history]);
        words.extend(["--description", description]);
        if serves {
            // Helm 4 has another name for it, and still takes the former.
            let is_four = matches!(self.version().await, Ok(Some((major, _))) if major >= 4);
            words.push(if is_four { "--rollback-on-failure" } else { "--atomic" });
        }
        self.run(&release.name, &words, "helm upgrade --install", stop).await
    }

    /// Removes the release, and waits until its objects are gone.
    ///
    /// # Errors
    /// As [`Self::upgrade`].
    pub async fn uninstall(&self, release: &plan::Release, stop: &CancellationToken) -> Result<(), ClusterError> {
        let timeout = format!("{}s", RELEASE_TIMEOUT.as_secs());
        let words =
            ["uninstall", &release.name, "--namespace", &release.k8s_namespace, "--wait", "--timeout", &timeout];
        self.run(&release.name, &words, "helm uninstall", stop).await
    }

    /// Whether the Helm that this machine last ran for `release` was cut off; `None` while it runs, or if there was none.
    pub fn was_cut_off(&self, release: &str) -> Option<bool> {
        let note: Running = serde_json::from_slice(&std::fs::read(self.note()).ok()?).ok()?;
        (note.release == release).then(|| !note.process.is_alive())
    }

    fn note(&self) -> PathBuf {
        self.scratch.join("helm.json")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).stdin(Stdio::null());
        if let Some(context) = &self.context {
            command.args(["--kube-context", context]);
        }
        command
    }

    /// Runs Helm to its end. It has a process group of its own, so that a Ctrl-C of the terminal reaches it through us
    /// alone, once.
    async fn run(
        &self,
        release: &str,
        words: &[&str],
        act: &str,
        stop: &CancellationToken,
    ) -> Result<(), ClusterError> {
        let failed = |said: String| ClusterError::Helm { act: format!("{act} {release}"), said };
        create(&self.scratch)?;
        let mut child = self
            .command(words)
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("start {}: {error}", self.program.display())))?;
        let pid = child.id().unwrap_or_default();
        self.write_note(release, pid);
        let mut stderr = child.stderr.take();
        let read = async move {
            let mut said = Vec::new();
            if let Some(stderr) = &mut stderr {
                let _ = stderr.read_to_end(&mut said).await;
            }
            said
        };
        let ended = async { tokio::join!(child.wait(), read) };
        tokio::pin!(ended);
        let (status, said) = tokio::select! {
            ended = &mut ended => ended,
            () = stop.cancelled() => {
                signal(pid, Signal::SIGINT);
                if tokio::time::timeout(STOP_TIMEOUT, &mut ended).await.is_err() {
                    signal(pid, Signal::SIGKILL);
                }
                return Err(ClusterError::Interrupted);
            }
        };
        let _ = std::fs::remove_file(self.note());
        let status = status.map_err(|error| failed(error.to_string()))?;
        if status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&said);
        let said = said.trim().trim_start_matches("Error: ");
        let from = said.char_indices().rev().nth(SAID_CHARS_MAX).map_or(0, |(at, _)| at);
        Err(failed(said[from..].to_owned()))
    }

    /// Best effort: without the note a release that a killed run left pending is waited for, not taken over.
    fn write_note(&self, release: &str, pid: u32) {
        if let Some(process) = Identity::of(pid) {
            let note = Running { process, release: release.to_owned() };
            let _ = serde_json::to_vec(&note).map(|bytes| std::fs::write(self.note(), bytes));
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

pub(crate) fn create(folder: &Path) -> Result<(), ClusterError> {
    std::fs::create_dir_all(folder).map_err(|source| ClusterError::File {
        act: "create the folder",
        path: folder.to_owned(),
        source,
    })
}

fn parse_version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.trim_start_matches('v').split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_helm_are_read() {
        assert_eq!(parse_version("v3.16.4"), Some((3, 16)));
        assert_eq!(parse_version("v4.3.1"), Some((4, 3)));
        assert_eq!(parse_version("Client: v2"), None);
    }
}
