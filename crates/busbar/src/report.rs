//! The one printer of errors: what failed, why, and what to do.

use deploy::local::RunError;
use graph::Finding;
use serde_json::json;

/// Exit code of a failure that the same call may not have next time.
pub(crate) const EXIT_FAILED: u8 = 1;
/// Exit code of a failure that only another call can avoid: bad flags, a bad file. A supervisor does not restart it.
pub(crate) const EXIT_USAGE: u8 = 2;

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
        std::iter::once(&self.what).chain(&self.causes).map(String::as_str).collect::<Vec<_>>().join(": ")
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
    eprintln!("error: {}", failure.what);
    for cause in &failure.causes {
        eprintln!("  cause: {cause}");
    }
    for remedy in &failure.remedies {
        eprintln!(" remedy: {remedy}");
    }
}
