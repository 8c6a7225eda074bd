//! `busbar keys add`: makes an API key. The key is printed once; the file keeps its hash.

use crate::cli::Output;
use crate::report::Failure;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;

/// Longest name of a key's holder; it becomes a metric label.
const NAME_LEN_MAX: usize = 64;

/// Makes a key for `name` and appends its hash to `file`.
pub(crate) fn add(name: &str, file: &Path, output: Output) -> Result<(), Failure> {
    let valid = (1..=NAME_LEN_MAX).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if !valid {
        return Err(Failure::new(format!("`{name}` is no name of a key's holder"))
            .remedy(format!("use 1 to {NAME_LEN_MAX} letters, digits, `-`, `_` and `.`"))
            .permanent());
    }
    let secret: [u8; 32] = rand::random();
    let key = format!("bb-{}", hex(&secret));
    let line = format!("{name} sha256:{}\n", hex(&Sha256::digest(key.as_bytes())));
    append(file, &line).map_err(|error| {
        Failure::new(format!("write {}", file.display()))
            .cause(error.to_string())
            .remedy("give another file: --file FILE")
    })?;
    if output == Output::Json {
        println!("{}", serde_json::json!({"name": name, "key": key, "file": file}));
    } else {
        println!("{key}");
        eprintln!("This is the only time that the key is shown. Its hash is in {} for `{name}`.", file.display());
        eprintln!("Serve with it: busbar up --api-keys {}", file.display());
    }
    Ok(())
}

fn append(file: &Path, line: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::File::options().create(true).append(true).mode(0o600).open(file)?.write_all(line.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
