//! The one printer of errors: what failed, why, and what to do.

use deploy::cluster::ClusterError;
use deploy::local::RunError;
use graph::Finding;
use serde_json::json;

/// Exit code of a failure that the same call may not have next time.
pub(crate) const EXIT_FAILED: u8 = 1;
/// Exit code of a failure that only another call can avoid: bad flags, a bad file. A supervisor does not restart it.
pub(crate) const EXIT_USAGE: u8 = 2;

/// What begins the lines of a printed failure, and what stands before those that go on.
const WHAT: &str = "error: ";
const CAUSE: &str = "  cause: ";
const REMEDY: &str = " remedy: ";
const HANGING: &str = "         ";

/// A failure, ready to print.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    causes: Vec<String>,
    remedies: Vec<String>,
    /// The process's exit code.
    pub(crate) exit_code: u8,
}

impl Failure {
    /// Something failed: `what` is the act, in the imperative.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), causes: Vec::new(), remedies: Vec::new(), exit_code: EXIT_FAILED }
    }

    /// Adds the cause below.
    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds the whole chain below `error`, itself included.
    pub(crate) fn chain(mut self, error: &dyn std::error::Error) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            // Some libraries print their source in their own text: say it once.
            if self.causes.last().is_none_or(|last| !last.contains(&text)) {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// What failed and why, in one line of a log.
    pub(crate) fn line(&self) -> String {
        let parts = std::iter::once(&self.what).chain(&self.causes).flat_map(|text| text.lines());
        parts.map(str::trim).collect::<Vec<_>>().join(": ")
    }

    /// As it is printed: what, causes and remedies, the later lines of these two below their beginning.
    fn text(&self) -> String {
        let hanging = |text: &String| text.lines().collect::<Vec<_>>().join(&format!("\n{HANGING}"));
        let mut lines = vec![format!("{WHAT}{}", self.what)];
        lines.extend(self.causes.iter().map(|cause| format!("{CAUSE}{}", hanging(cause))));
        lines.extend(self.remedies.iter().map(|remedy| format!("{REMEDY}{}", hanging(remedy))));
        lines.join("\n")
    }

    /// Reads what another process of ours printed, out of the lines of its log.
    pub(crate) fn of_text(lines: &[String]) -> Option<Self> {
        let mut found: Option<Self> = None;
        // Whether a line without a word of its own goes on with a remedy.
        let mut in_remedy = false;
        for line in lines {
            if let Some(what) = line.strip_prefix(WHAT) {
                found = Some(Self::new(what));
                continue;
            }
            let Some(failure) = &mut found else { continue };
            if let Some(cause) = line.strip_prefix(CAUSE) {
                failure.causes.push(cause.to_owned());
                in_remedy = false;
            } else if let Some(remedy) = line.strip_prefix(REMEDY) {
                failure.remedies.push(remedy.to_owned());
                in_remedy = true;
            } else if let Some(more) = line.strip_prefix(HANGING) {
                let texts = if in_remedy { &mut failure.remedies } else { &mut failure.causes };
                texts.last_mut().into_iter().for_each(|text| *text += &format!("\n{more}"));
            }
        }
        found
    }

    /// Adds what to do.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedies.push(remedy.into());
        self
    }

    /// Says that the same call will fail again.
    pub(crate) fn permanent(mut self) -> Self {
        self.exit_code = EXIT_USAGE;
        self
    }

    /// A command line that clap refused; its text is whole.
    pub(crate) fn usage(text: &str) -> Self {
        let text = text.trim_end().strip_prefix("error: ").unwrap_or(text.trim_end()).to_owned();
        Self::new(text).permanent()
    }

    /// A file with findings.
    pub(crate) fn findings(file: &str, findings: &[Finding]) -> Self {
        let mut failure = Self::new(format!("read {file}")).permanent();
        for finding in findings {
            let place = if finding.path.is_empty() { String::new() } else { format!("{}: ", finding.path) };
            failure.causes.push(format!("{place}{}", finding.problem));
            if !failure.remedies.contains(&finding.remedy) {
                failure.remedies.push(finding.remedy.clone());
            }
        }
        failure
    }
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        let failure = match std::error::Error::source(&error) {
            Some(source) => Self::new(error.to_string()).chain(source),
            None => match error.to_string().split_once('\n') {
                // What failed in the first line, what the cluster says about it below.
                Some((what, causes)) => causes.lines().fold(Self::new(what.trim_end_matches(':')), Self::cause),
                None => Self::new(error.to_string()),
            },
        };
        error.remedies().into_iter().fold(failure, Self::remedy)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let remedy = error.remedy();
        let failure = Self::new(error.to_string()).remedy(remedy);
        match std::error::Error::source(&error) {
            Some(source) => failure.chain(source),
            None => failure,
        }
    }
}

/// Whether the command line asks for JSON, known even where it does not parse.
pub(crate) fn wants_json(argv: &[String]) -> bool {
    argv.windows(2).any(|pair| matches!(pair[0].as_str(), "-o" | "--output") && pair[1] == "json")
        || argv.iter().any(|arg| arg == "-ojson" || arg == "--output=json")
}

/// Prints a failure to standard error; as JSON also to standard output, where a machine looks for its one value.
pub(crate) fn print(failure: &Failure, as_json: bool) {
    if as_json {
        let value = json!({"error": {"message": failure.what, "causes": failure.causes, "remedies": failure.remedies}});
        println!("{value}");
    }
    eprintln!("{}", failure.text());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        Failure::new("start vLLM")
            .cause("`vllm serve` ended: ValidationError: 1 error\n  max_model_len is too large")
            .remedy("correct it")
    }

    #[test]
    fn a_cause_of_several_lines_is_shown_whole_below_its_beginning() {
        let expected = "error: start vLLM\n  cause: `vllm serve` ended: ValidationError: 1 error\n         \
                        \u{20} max_model_len is too large\n remedy: correct it";
        assert_eq!(failure().text(), expected);
        assert_eq!(
            failure().line(),
            "start vLLM: `vllm serve` ended: ValidationError: 1 error: max_model_len is too large"
        );
    }

    #[test]
    fn what_was_printed_is_read_again_from_a_log() {
        let printed = format!("2026 INFO starting\n{}\n", failure().text());
        let lines: Vec<String> = printed.lines().map(str::to_owned).collect();
        assert_eq!(Failure::of_text(&lines).unwrap().text(), failure().text());
        assert!(Failure::of_text(&lines[..1]).is_none());
    }
}
