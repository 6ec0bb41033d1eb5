//! Credentials where Docker keeps them: `$DOCKER_CONFIG/config.json`, by default `~/.docker/config.json`, and the
//! helper programs it names.
//!
//! They are looked up only when a registry asks for them, and for that registry only.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;

/// More than any real one, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// What to show a registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    Password {
        user: String,
        password: String,
    },
    /// OAuth 2: exchanged for tokens, never shown to the registry itself.
    RefreshToken(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not a Docker configuration file", path.display())]
    Malformed {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{}: the credentials of {registry} are not base64 of USER:PASSWORD; log in again", path.display())]
    Entry { path: PathBuf, registry: String },
    #[error("{helper:?} is not the name of a credential helper")]
    HelperName { helper: String },
    #[error(
        "cannot run docker-credential-{helper}, which Docker's configuration names; install it or change the configuration"
    )]
    HelperMissing {
        helper: String,
        #[source]
        source: std::io::Error,
    },
    #[error("docker-credential-{helper} failed: {said}")]
    Helper { helper: String, said: String },
}

impl CredentialsError {
    /// A helper failed, and the configuration is as it should be. Most images need no login at all.
    pub(super) fn is_helpers(&self) -> bool {
        matches!(self, Self::HelperMissing { .. } | Self::Helper { .. })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// Where Docker's configuration is, if anywhere.
pub(super) fn docker_config() -> Option<PathBuf> {
    let directory = match std::env::var_os("DOCKER_CONFIG").filter(|value| !value.is_empty()) {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    Some(directory.join("config.json"))
}

/// The credentials for a registry; `None`: be nobody.
pub(super) fn find(path: Option<PathBuf>, registry: &str) -> Result<Option<Credentials>, CredentialsError> {
    let Some(path) = path else {
        return Ok(None);
    };
    let text = match std::fs::metadata(&path).and_then(|metadata| {
        match metadata.is_file() && metadata.len() <= FILE_MAX {
            true => std::fs::read(&path),
            false => Err(std::io::ErrorKind::InvalidData.into()),
        }
    }) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CredentialsError::Read { path, source }),
    };
    let config: DockerConfig = match serde_json::from_slice(&text) {
        Ok(config) => config,
        Err(source) => return Err(CredentialsError::Malformed { path, source }),
    };
    let helper = config
        .cred_helpers
        .iter()
        .find(|(key, _)| means(key, registry))
        .map(|(_, helper)| helper)
        .or(config.creds_store.as_ref().filter(|store| !store.is_empty()));
    let nothing = match helper.map_or(Ok(None), |helper| ask(helper, registry)) {
        Ok(Some(found)) => return Ok(Some(found)),
        Err(error) if !error.is_helpers() => return Err(error),
        // The file may have a login all the same.
        none => none,
    };
    let Some((key, auth)) = config.auths.iter().find(|(key, _)| means(key, registry)) else {
        return nothing;
    };
    if let Some(token) = auth.identitytoken.as_ref().filter(|token| !token.is_empty()) {
        return Ok(Some(Credentials::RefreshToken(token.clone())));
    }
    let Some(encoded) = auth.auth.as_ref().filter(|auth| !auth.is_empty()) else {
        return nothing;
    };
    let decoded = data_encoding::BASE64
        .decode(encoded.trim().as_bytes())
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|text| text.split_once(':')) {
        Some((user, password)) => Ok(Some(Credentials::Password {
            user: user.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        })),
        None => Err(CredentialsError::Entry {
            registry: key.clone(),
            path,
        }),
    }
}

/// Keys are hosts, or URLs in old files. A key for another port is for another registry.
fn means(key: &str, registry: &str) -> bool {
    let host = key.split_once("://").map_or(key, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or(host);
    match registry {
        "docker.io" => ["docker.io", "index.docker.io", "registry-1.docker.io"].contains(&host),
        registry => host.eq_ignore_ascii_case(registry),
    }
}

/// The protocol of docker/docker-credential-helpers: `get`, the server on standard input, JSON on standard output.
fn ask(helper: &str, registry: &str) -> Result<Option<Credentials>, CredentialsError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if helper.is_empty() || !helper.chars().all(plain) {
        return Err(CredentialsError::HelperName {
            helper: helper.to_owned(),
        });
    }
    let missing = |source| CredentialsError::HelperMissing {
        helper: helper.to_owned(),
        source,
    };
    let server = match registry {
        "docker.io" => "https://index.docker.io/v1/",
        registry => registry,
    };
    // Far less than a pipe holds, so it can be written before anybody reads.
    let (read, mut write) = std::io::pipe().map_err(missing)?;
    write.write_all(server.as_bytes()).map_err(missing)?;
    drop(write);
    let output = Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(read)
        .output()
        .map_err(missing)?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        // This sentence is part of the protocol.
        if said.contains("credentials not found") {
            return Ok(None);
        }
        // Where it is said is not.
        let lines = [said, String::from_utf8_lossy(&output.stderr)].join("\n");
        let lines: Vec<_> = lines
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let said = match lines.is_empty() {
            true => output.status.to_string(),
            false => lines.join("; ").chars().take(300).collect(),
        };
        return Err(CredentialsError::Helper {
            helper: helper.to_owned(),
            said,
        });
    }
    // What it said stays out of the message: it may be half a secret.
    let answer: HelperAnswer = serde_json::from_str(&said).map_err(|_| CredentialsError::Helper {
        helper: helper.to_owned(),
        said: "its answer is not the JSON that was expected".to_owned(),
    })?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credentials::RefreshToken(answer.secret),
        _ => Credentials::Password {
            user: answer.username,
            password: answer.secret,
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(config: &str, registry: &str) -> Result<Option<Credentials>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, config).unwrap();
        find(Some(path), registry).map_err(|error| error.to_string())
    }

    #[test]
    fn credentials_are_found_for_their_registry_and_for_no_other() {
        let auth = data_encoding::BASE64.encode(b"me:p:w");
        let config = format!(
            r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{auth}"}}, "r.io:5000": {{"auth": "{auth}"}},
                "t.io": {{"identitytoken": "tok"}}, "empty.io": {{}}}}}}"#
        );
        let me = Some(Credentials::Password {
            user: "me".into(),
            password: "p:w".into(),
        });
        for (registry, expected) in [
            ("docker.io", me.clone()),
            ("r.io:5000", me),
            ("r.io", None),
            ("r.io:5001", None),
            ("evil-r.io:5000", None),
            ("t.io", Some(Credentials::RefreshToken("tok".into()))),
            ("empty.io", None),
        ] {
            assert_eq!(found(&config, registry).unwrap(), expected, "{registry}");
        }
        assert_eq!(find(Some("/nowhere/at/all".into()), "r.io").unwrap(), None);
    }

    #[test]
    fn a_broken_configuration_says_what_is_wrong() {
        assert!(
            found("{", "r.io")
                .unwrap_err()
                .ends_with("is not a Docker configuration file")
        );
        assert!(
            found(r#"{"auths": {"r.io": {"auth": "%%"}}}"#, "r.io")
                .unwrap_err()
                .ends_with("the credentials of r.io are not base64 of USER:PASSWORD; log in again")
        );
        assert_eq!(
            found(r#"{"credsStore": "../../bin/sh"}"#, "r.io").unwrap_err(),
            "\"../../bin/sh\" is not the name of a credential helper"
        );
        assert!(
            found(r#"{"credHelpers": {"r.io": "herd-has-no-such"}}"#, "r.io")
                .unwrap_err()
                .starts_with("cannot run docker-credential-herd-has-no-such")
        );
    }
}
