//! What is wrong with a file, where, and what to do.

use std::fmt;

/// One violation. Validation returns all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Path of the field: `spec.services.Worker.replicas`; empty for the file as a whole.
    pub path: String,
    /// What is wrong, with the value that was found.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    /// A finding at `path`.
    pub fn new(path: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}
