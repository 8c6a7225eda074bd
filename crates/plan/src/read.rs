//! From the text of a platform file to a [`Platform`]: all violations at once.

use crate::{check, shape};
use crds::platform::{self, Platform};
use graph::Finding;
use serde_json::Value;

/// Bytes of a platform file that are read: graphs may stand in it, each of at most 1.5 MiB.
pub const PLATFORM_BYTES_MAX: usize = 4 << 20;

/// The `kind` that a file names, without judging anything else; empty when it names none.
///
/// # Errors
/// One finding with line and column when the text is no YAML.
pub fn kind_of(text: &str) -> Result<String, Vec<Finding>> {
    let value = yaml(text)?;
    Ok(value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// Reads a platform file. Pure: the graph files that it names are not read.
///
/// # Errors
/// Every violation with its path and remedy, those of the shape and those of the meaning together as far as the file can
/// be typed.
pub fn read(text: &str) -> Result<Platform, Vec<Finding>> {
    let mut value = yaml(text)?;
    let mut findings = Vec::new();
    shape::check(&platform::schema(), &mut value, "", &mut findings);
    match serde_path_to_error::deserialize::<_, Platform>(&value) {
        Ok(platform) => {
            let known = |path: &str, findings: &[Finding]| findings.iter().any(|found| found.path == path);
            for finding in check::check(&platform) {
                if !known(&finding.path, &findings) {
                    findings.push(finding);
                }
            }
            if findings.is_empty() { Ok(platform) } else { Err(findings) }
        }
        Err(error) => {
            // The shape's own finding is there, unless the schema allows what the type does not.
            if findings.is_empty() {
                findings.push(Finding::new(error.path().to_string(), error.inner().to_string(), "correct the value"));
            }
            Err(findings)
        }
    }
}

fn yaml(text: &str) -> Result<Value, Vec<Finding>> {
    if text.len() > PLATFORM_BYTES_MAX {
        let problem = format!("the file has {} bytes, more than {PLATFORM_BYTES_MAX}", text.len());
        return Err(vec![Finding::new("", problem, "keep the graphs in files of their own")]);
    }
    serde_saphyr::from_str(text).map_err(|error| {
        // The first line names place and cause; what follows is a drawing of the source.
        let text = error.to_string();
        let problem = text.lines().next().unwrap_or("unreadable");
        vec![Finding::new("", format!("the file is not YAML: {problem}"), "correct that line; each key once")]
    })
}
