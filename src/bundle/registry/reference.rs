//! The names of images in registries, as Docker made them common: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.

use std::str::FromStr;

use crate::bundle::content::Sha256Digest;

/// Longest name of registry and repository together, in bytes.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Host and port as the user means it: `docker.io`, `localhost:5000`.
    pub registry: String,
    pub repository: String,
    pub wanted: Wanted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Tag(String),
    /// Whatever tag stood beside it.
    Digest(Sha256Digest),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image reference: {what}; write [HOST[:PORT]/]NAME[:TAG][@sha256:…]")]
pub struct NotAReference {
    text: String,
    what: &'static str,
}

impl FromStr for Reference {
    type Err = NotAReference;

    fn from_str(text: &str) -> Result<Self, NotAReference> {
        let wrong = |what| NotAReference {
            text: text.chars().take(300).collect(),
            what,
        };
        if text.contains("://") {
            return Err(wrong("a reference has no scheme"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|_| wrong("its digest is not sha256: and 64 hexadecimal digits"))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        // A colon after the last slash begins a tag; any other one a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') && !tag.ends_with(']') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("its tag is not 1 to 128 letters, digits, `_`, `.` or `-`"));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, path)) if is_host(first) => (first, path.to_owned()),
            _ if name.contains('/') => ("docker.io", name.to_owned()),
            _ => ("docker.io", format!("library/{name}")),
        };
        let registry = match registry {
            "index.docker.io" | "registry-1.docker.io" => "docker.io",
            registry => registry,
        };
        if registry.parse::<http::uri::Authority>().is_err() || registry.contains('@') {
            return Err(wrong("its registry is not a host with an optional port"));
        }
        let repository = match registry == "docker.io" && !repository.contains('/') {
            true => format!("library/{repository}"),
            false => repository,
        };
        if !repository.split('/').all(is_component) {
            return Err(wrong(
                "each part of its name has to be lower-case letters and digits, joined by `.`, `_` or `-`",
            ));
        }
        if registry.len() + repository.len() > NAME_MAX {
            return Err(wrong("its name is longer than 255 characters"));
        }
        let wanted = match digest {
            Some(digest) => Wanted::Digest(digest),
            None => Wanted::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            wanted,
        })
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.wanted {
            Wanted::Tag(tag) => write!(f, ":{tag}"),
            Wanted::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl Wanted {
    /// As it stands in a URL.
    pub(super) fn in_url(&self) -> String {
        match self {
            Self::Tag(tag) => tag.clone(),
            Self::Digest(digest) => digest.to_string(),
        }
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= TAG_MAX
        && bytes.next().is_some_and(word)
        && bytes.all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// What has a dot, a port or an upper-case letter, or is `localhost`, cannot be the first part of a repository.
fn is_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_component(part: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    // Between words: one dot, one or two underscores, any number of hyphens.
    let separators = part.split(|c: char| alphanumeric(c as u8) && c.is_ascii());
    let separated = separators
        .filter(|separator| !separator.is_empty())
        .all(|separator| matches!(separator, "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-'));
    alphanumeric(*first) && alphanumeric(*last) && separated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_unsaid_is_docker_hubs_latest() {
        let hex = "a".repeat(64);
        for (text, meant) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("me/app", "docker.io/me/app:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            (
                "index.docker.io/library/busybox",
                "docker.io/library/busybox:latest",
            ),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x"),
            ("[::1]:5000/app:x", "[::1]:5000/app:x"),
            ("ghcr.io/a__b/c-d.e:V1_2", "ghcr.io/a__b/c-d.e:V1_2"),
            (
                &format!("r.io/a:tag@sha256:{hex}"),
                &format!("r.io/a@sha256:{hex}"),
            ),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), meant);
        }
    }

    #[test]
    fn what_is_no_reference_is_refused_with_the_reason() {
        for (text, what) in [
            ("", "each part of its name"),
            ("https://r.io/a", "a reference has no scheme"),
            ("r.io/A", "each part of its name"),
            ("r.io/a//b", "each part of its name"),
            ("r.io/../b", "each part of its name"),
            ("r.io/a___b", "each part of its name"),
            ("r.io/-a", "each part of its name"),
            ("a:", "its tag is not"),
            ("a:-x", "its tag is not"),
            ("a@sha256:12", "its digest is not"),
            ("a@md5:12", "its digest is not"),
            ("user@r.io/a", "its digest is not"),
            ("r.io:port:5/a", "its registry is not a host"),
            (&"a/".repeat(200), "each part of its name"),
            (&format!("r.io/{}", "a".repeat(260)), "its name is longer"),
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
