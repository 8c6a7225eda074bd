//! Who we are to a registry: what was given, else what `docker login` left.
//!
//! Source: Docker, "docker login", "Credential stores" and "Credential helpers".

use super::error::ImageError;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Longest wait for a helper program; those of clouds ask their servers.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);
/// User name that helpers give where the secret is a token for the registry's own server of tokens.
const TOKEN_USER: &str = "<token>";

/// Where logins come from. `Debug` shows no secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// User name and password for the registry that is pushed to; before all else.
    pub given: Option<(String, String)>,
    /// Docker's `config.json`; a file that is not there says nothing.
    pub file: Option<PathBuf>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let user = self.given.as_ref().map(|(user, _)| user);
        formatter.debug_struct("Login").field("user", &user).field("file", &self.file).finish()
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: BTreeMap<String, RawAuth>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawAuth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

impl Login {
    /// The login for `registry`; nobody's where none is known.
    pub(super) async fn at(&self, registry: &str) -> Result<RegistryAuth, ImageError> {
        if let Some((user, password)) = &self.given {
            return Ok(RegistryAuth::Basic(user.clone(), password.clone()));
        }
        let Some(file) = &self.file else { return Ok(RegistryAuth::Anonymous) };
        let failed = |why: String| ImageError::Credentials { registry: registry.to_owned(), file: file.clone(), why };
        let text = match std::fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(RegistryAuth::Anonymous),
            Err(error) => return Err(failed(error.to_string())),
        };
        let config: DockerConfig = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
        let names = names_of(registry);
        let own_helper = names.iter().find_map(|name| config.cred_helpers.get(name).map(|helper| (helper, name)));
        if let Some((helper, name)) = own_helper {
            return ask(helper, name).await.map(|auth| auth.unwrap_or(RegistryAuth::Anonymous)).map_err(failed);
        }
        if let Some(store) = &config.creds_store {
            for name in &names {
                if let Some(auth) = ask(store, name).await.map_err(failed)? {
                    return Ok(auth);
                }
            }
        }
        let written = names.iter().find_map(|name| config.auths.get(name));
        written.map_or(Ok(RegistryAuth::Anonymous), |auth| auth.read().map_err(failed))
    }
}

impl RawAuth {
    fn read(&self) -> Result<RegistryAuth, String> {
        if let (Some(user), Some(password)) = (&self.username, &self.password) {
            return Ok(RegistryAuth::Basic(user.clone(), password.clone()));
        }
        let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) else {
            return Ok(RegistryAuth::Anonymous);
        };
        let text = base64(auth).and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = text.as_deref().and_then(|text| text.split_once(':'));
        let (user, password) = pair.ok_or("`auth` is not the base64 of USER:PASSWORD")?;
        Ok(RegistryAuth::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned()))
    }
}

/// The names by which a registry may stand in the file.
fn names_of(registry: &str) -> Vec<String> {
    let mut names = vec![registry.to_owned(), format!("https://{registry}"), format!("https://{registry}/v2/")];
    if matches!(registry, "docker.io" | "index.docker.io" | "registry-1.docker.io") {
        // The one name of Docker's own registry, from before there was a second version of its protocol.
        names.insert(0, "https://index.docker.io/v1/".to_owned());
    }
    names
}

/// Asks `docker-credential-HELPER get`. `None` where it knows none.
async fn ask(helper: &str, registry: &str) -> Result<Option<RegistryAuth>, String> {
    let program = format!("docker-credential-{helper}");
    if !helper.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        return Err(format!("`{helper}` is no name of a credential helper"));
    }
    let run = async {
        let mut child = tokio::process::Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(registry.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(HELPER_TIMEOUT, run)
        .await
        .map_err(|_| format!("`{program} get` does not end in {} s", HELPER_TIMEOUT.as_secs()))?
        .map_err(|error| format!("`{program} get`: {error}"))?;
    if !output.status.success() {
        // Helpers say on standard output why; that they know nothing is no failure.
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        return if said.contains("credentials not found") {
            Ok(None)
        } else {
            Err(format!("`{program} get` ended with {}: {said}", output.status))
        };
    }
    // What it printed holds the secret, so it is not repeated.
    let answer: HelperAnswer =
        serde_json::from_slice(&output.stdout).map_err(|_| format!("`{program} get` answered no login"))?;
    if answer.username == TOKEN_USER {
        return Err(format!("`{program} get` gave an identity token, which is not supported"));
    }
    Ok(Some(RegistryAuth::Basic(answer.username, answer.secret)))
}

/// Decodes base64 of RFC 4648 with or without padding; `None` where it is none.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(u32::from(byte - b'A')),
        b'a'..=b'z' => Some(u32::from(byte - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(byte - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut bytes = Vec::with_capacity(text.len());
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in text.trim().trim_end_matches('=').bytes() {
        bits = bits << 6 | digit(byte)?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
            bits &= (1 << held) - 1;
        }
    }
    Some(bytes)
}

/// Docker's file of logins: in `docker_config`, else in `.docker` of `home`.
pub fn docker_file(docker_config: Option<&Path>, home: Option<&Path>) -> Option<PathBuf> {
    let folder = docker_config.map(Path::to_owned).or_else(|| home.map(|home| home.join(".docker")))?;
    Some(folder.join("config.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn at(registry: &str, config: &str) -> Result<RegistryAuth, ImageError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, config).unwrap();
        Login { given: None, file: Some(file) }.at(registry).await
    }

    fn basic(user: &str, password: &str) -> RegistryAuth {
        RegistryAuth::Basic(user.into(), password.into())
    }

    #[tokio::test]
    async fn a_login_is_found_by_each_name_that_a_registry_has_there() {
        let config = r#"{"auths":{"r.example:5000":{"auth":"dTpwOnE="},"https://index.docker.io/v1/":{"auth":"YTpi"},
            "https://other.example":{"username":"x","password":"y"},"empty.example":{}}}"#;
        for (registry, expected) in [
            ("r.example:5000", basic("u", "p:q")),
            ("index.docker.io", basic("a", "b")),
            ("other.example", basic("x", "y")),
            ("empty.example", RegistryAuth::Anonymous),
            ("unknown.example", RegistryAuth::Anonymous),
        ] {
            assert_eq!(at(registry, config).await.unwrap(), expected, "{registry}");
        }
    }

    #[tokio::test]
    async fn what_is_given_wins_and_no_file_is_no_login() {
        let login = Login { given: Some(("u".into(), "secret".into())), file: None };
        assert_eq!(login.at("r").await.unwrap(), basic("u", "secret"));
        assert!(!format!("{login:?}").contains("secret"));
        let login = Login { given: None, file: Some("/nonexistent/config.json".into()) };
        assert_eq!(login.at("r").await.unwrap(), RegistryAuth::Anonymous);
    }

    #[tokio::test]
    async fn a_file_or_a_helper_that_does_not_work_is_an_error_that_names_registry_and_file() {
        for (config, part) in [
            ("{", "EOF"),
            (r#"{"auths":{"r":{"auth":"%%"}}}"#, "base64"),
            (r#"{"credHelpers":{"r":"busbar-none"}}"#, "docker-credential-busbar-none"),
            (r#"{"credsStore":"../evil"}"#, "no name of a credential helper"),
        ] {
            let text = at("r", config).await.unwrap_err().to_string();
            assert!(text.contains(part) && text.contains("login for r") && text.contains("config.json"), "{text}");
        }
    }
}
