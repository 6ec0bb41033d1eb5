//! The JSON documents of an image, and the way from any of them to one platform's manifest.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use crate::bundle::content::Sha256Digest;
use crate::bundle::open::host_architecture;

/// Indexes may lie in indexes; nobody needs more than two.
const DEPTH_MAX: usize = 4;
/// An index of more is made to keep somebody busy.
const MANIFESTS_MAX: usize = 1000;
const LAYERS_MAX: usize = 500;
/// Index, manifest or configuration, in bytes.
pub const DOCUMENT_MAX: u64 = 4 << 20;

/// Annotations under which tools keep an image's name.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("{digest} is not valid")]
    Malformed {
        digest: String,
        source: serde_json::Error,
    },
    #[error("{0} is neither an image manifest nor an index")]
    Neither(String),
    #[error("{0} claims to be a manifest and an index at once")]
    Both(String),
    #[error(
        "{0} is an image of Docker's first format, which no longer has a use: push it again with a current tool"
    )]
    Schema1(String),
    #[error("the index {0} contains itself")]
    Cycle(String),
    #[error("indexes lie in indexes more than {DEPTH_MAX} deep")]
    TooDeep,
    #[error("the index {digest} lists {count} manifests; herd reads at most {MANIFESTS_MAX}")]
    TooManyManifests { digest: String, count: usize },
    #[error("the manifest {digest} lists {count} layers; herd reads at most {LAYERS_MAX}")]
    TooManyLayers { digest: String, count: usize },
    #[error("{digest} is said to have {size} bytes; herd reads documents up to {DOCUMENT_MAX}")]
    TooLarge { digest: Sha256Digest, size: u64 },
    #[error("no image for {wanted} here, only for {}; choose one with --platform", .offered.join(", "))]
    NoPlatform { wanted: String, offered: Vec<String> },
    #[error("the image is for {is}, not for {wanted}; --platform {is} takes it anyway")]
    OtherPlatform { wanted: String, is: String },
    #[error("the archive has no image named {name:?}; it has {}", .offered.join(", "))]
    NoName { name: String, offered: Vec<String> },
    #[error("the archive has several images: {}; choose one with --image", .offered.join(", "))]
    Several { offered: Vec<String> },
    #[error("the image has {layers} layers and {diff_ids} diff_ids; they have to be as many")]
    DiffIds { layers: usize, diff_ids: usize },
}

/// Operating system, architecture and its variant, in Go's spelling.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub variant: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write it as linux/ARCHITECTURE or linux/ARCHITECTURE/VARIANT, for example linux/arm64")]
pub struct PlatformError;

impl Platform {
    pub fn host() -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: host_architecture().to_owned(),
            variant: None,
        }
    }

    /// How well `offered` serves this wish: smaller is better.
    fn rank(&self, offered: &Platform) -> Option<u8> {
        if (&self.os, &self.architecture) != (&offered.os, &offered.architecture) {
            return None;
        }
        let offered = offered.variant.as_deref().filter(|variant| !variant.is_empty());
        match (self.variant.as_deref(), offered) {
            (Some(wanted), Some(offered)) => (wanted == offered).then_some(0),
            // What is left unsaid means the architecture's usual variant.
            (Some(wanted), None) => (Some(wanted) == self.usual()).then_some(1),
            (None, None) => Some(0),
            (None, Some(offered)) if Some(offered) == self.usual() => Some(1),
            (None, Some(_)) => Some(2),
        }
    }

    fn usual(&self) -> Option<&'static str> {
        match self.architecture.as_str() {
            "arm64" => Some("v8"),
            "arm" => Some("v7"),
            "amd64" => Some("v1"),
            _ => None,
        }
    }
}

impl std::str::FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<_> = text.split('/').collect();
        let (architecture, variant) = match parts.as_slice() {
            ["linux", architecture] => (architecture, None),
            ["linux", architecture, variant] if !variant.is_empty() => {
                (architecture, Some((*variant).to_owned()))
            }
            _ => return Err(PlatformError),
        };
        match architecture.is_empty() {
            true => Err(PlatformError),
            false => Ok(Self {
                os: "linux".to_owned(),
                architecture: (*architecture).to_owned(),
                variant,
            }),
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

/// A reference to a part of an image: what it must be and how large.
#[derive(Debug, Clone, Deserialize)]
pub struct Descriptor {
    pub digest: Sha256Digest,
    /// Bytes.
    pub size: u64,
    #[serde(rename = "mediaType", default)]
    pub media_type: String,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    fn names(&self) -> impl Iterator<Item = &str> {
        NAMES
            .iter()
            .filter_map(|key| self.annotations.as_ref()?.get(*key).map(String::as_str))
    }

    /// An error if it is too large for a document.
    pub fn check_document(&self) -> Result<(), DocumentError> {
        match self.size > DOCUMENT_MAX {
            true => Err(DocumentError::TooLarge {
                digest: self.digest,
                size: self.size,
            }),
            false => Ok(()),
        }
    }
}

/// An image for one platform.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub config: Descriptor,
    /// The lowest layer first.
    pub layers: Vec<Descriptor>,
}

/// What an image wants to run, and what its layers have to be.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Configuration {
    #[serde(flatten)]
    pub(super) platform: Platform,
    #[serde(default)]
    pub(super) config: Option<Execution>,
    pub(super) rootfs: DiffIds,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct DiffIds {
    pub(super) diff_ids: Vec<Sha256Digest>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Execution {
    pub(super) user: Option<String>,
    pub(super) env: Option<Vec<String>>,
    pub(super) entrypoint: Option<Vec<String>>,
    pub(super) cmd: Option<Vec<String>>,
    pub(super) working_dir: Option<String>,
    pub(super) labels: Option<BTreeMap<String, String>>,
}

impl Configuration {
    pub(super) fn parse(text: &[u8], what: &str) -> Result<Self, DocumentError> {
        parse(text, what)
    }

    pub(super) fn check_platform(&self, wanted: &Platform) -> Result<(), DocumentError> {
        match wanted.rank(&self.platform) {
            Some(_) => Ok(()),
            None => Err(DocumentError::OtherPlatform {
                wanted: wanted.to_string(),
                is: self.platform.to_string(),
            }),
        }
    }
}

pub(super) fn parse<'a, T: Deserialize<'a>>(text: &'a [u8], what: &str) -> Result<T, DocumentError> {
    serde_json::from_slice(text).map_err(|source| DocumentError::Malformed {
        digest: what.to_owned(),
        source,
    })
}

/// Either kind of document. Which one is decided by its content, and by that alone: a document that could be read
/// as both is an attempt to show different tools different images (CVE-2021-41190).
#[derive(Deserialize)]
struct Document {
    #[serde(rename = "schemaVersion", default)]
    schema_version: u32,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

/// The way down from an index; documents are fetched by whoever walks it.
#[derive(Debug)]
pub struct Descent {
    platform: Platform,
    seen: HashSet<String>,
}

/// What a document leads to.
#[derive(Debug)]
pub enum Step {
    /// Fetch this document and go on with it.
    Next(Descriptor),
    Image(Manifest),
}

impl Descent {
    pub fn new(platform: Platform) -> Self {
        let seen = HashSet::new();
        Self { platform, seen }
    }

    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// `name` tells documents apart (a digest), and is what messages call this one.
    pub fn step(&mut self, name: &str, text: &[u8]) -> Result<Step, DocumentError> {
        self.step_named(name, text, None)
    }

    /// For the index of an archive, which may hold several images: only those of the given name count.
    pub(super) fn step_named(
        &mut self,
        name: &str,
        text: &[u8],
        image: Option<&str>,
    ) -> Result<Step, DocumentError> {
        if !self.seen.insert(name.to_owned()) {
            return Err(DocumentError::Cycle(name.to_owned()));
        }
        if self.seen.len() > DEPTH_MAX {
            return Err(DocumentError::TooDeep);
        }
        let document: Document = parse(text, name)?;
        match (document.manifests, document.config, document.layers) {
            (Some(manifests), None, None) => self.choose(name, manifests, image).map(Step::Next),
            (None, Some(config), Some(layers)) if layers.len() > LAYERS_MAX => {
                config.check_document()?;
                Err(DocumentError::TooManyLayers {
                    digest: name.to_owned(),
                    count: layers.len(),
                })
            }
            (None, Some(config), Some(layers)) => {
                config.check_document()?;
                Ok(Step::Image(Manifest { config, layers }))
            }
            (Some(_), _, _) => Err(DocumentError::Both(name.to_owned())),
            _ if document.schema_version == 1 => Err(DocumentError::Schema1(name.to_owned())),
            _ => Err(DocumentError::Neither(name.to_owned())),
        }
    }

    fn choose(
        &self,
        digest: &str,
        manifests: Vec<Descriptor>,
        image: Option<&str>,
    ) -> Result<Descriptor, DocumentError> {
        if manifests.len() > MANIFESTS_MAX {
            return Err(DocumentError::TooManyManifests {
                digest: digest.to_owned(),
                count: manifests.len(),
            });
        }
        let mut names: Vec<String> = manifests
            .iter()
            .filter_map(|manifest| manifest.names().next().map(str::to_owned))
            .collect();
        names.sort_unstable();
        names.dedup();
        let mut manifests = manifests;
        if let Some(wanted) = image {
            manifests.retain(|manifest| manifest.names().any(|name| name == wanted));
            if manifests.is_empty() {
                return Err(DocumentError::NoName {
                    name: wanted.to_owned(),
                    offered: names,
                });
            }
        } else if names.len() > 1 {
            return Err(DocumentError::Several { offered: names });
        }
        if let [only] = manifests.as_slice()
            && only.platform.is_none()
        {
            // The image's own configuration says what it is for, and is asked later.
            only.check_document()?;
            return Ok(only.clone());
        }
        let best = manifests
            .iter()
            .filter_map(|manifest| Some((self.platform.rank(manifest.platform.as_ref()?)?, manifest)))
            // Of equals the first: `min_by_key` keeps it.
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, manifest)| manifest.clone());
        match best {
            Some(best) => {
                best.check_document()?;
                Ok(best)
            }
            None => {
                let mut offered: Vec<String> = manifests
                    .iter()
                    .filter_map(|manifest| manifest.platform.as_ref())
                    // Attestations are listed among the images under this name.
                    .filter(|platform| platform.os != "unknown")
                    .map(ToString::to_string)
                    .collect();
                offered.dedup();
                if offered.is_empty() {
                    offered.push("nothing that is named".to_owned());
                }
                Err(DocumentError::NoPlatform {
                    wanted: self.platform.to_string(),
                    offered,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(text: &str) -> String {
        Sha256Digest::of(text.as_bytes()).to_string()
    }

    fn manifest(platform: &str) -> serde_json::Value {
        let mut parts = platform.split('/');
        let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
        let mut value = json!({ "digest": digest(platform), "size": 1, "platform": { "os": os, "architecture": architecture } });
        if let Some(variant) = parts.next() {
            value["platform"]["variant"] = variant.into();
        }
        value
    }

    fn chosen(wanted: &str, offered: &[&str]) -> Result<String, String> {
        let manifests: Vec<_> = offered.iter().map(|platform| manifest(platform)).collect();
        let mut descent = Descent::new(wanted.parse().unwrap());
        match descent.step("x", json!({ "manifests": manifests }).to_string().as_bytes()) {
            Ok(Step::Next(next)) => Ok(offered
                .iter()
                .find(|platform| digest(platform) == next.digest.to_string())
                .unwrap()
                .to_string()),
            Ok(Step::Image(_)) => unreachable!(),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_platform_wished_for_is_chosen() {
        let all = [
            "linux/amd64",
            "unknown/unknown",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/arm64/v8",
            "windows/amd64",
        ];
        for (wanted, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/arm64", "linux/arm64/v8"),
            ("linux/arm64/v8", "linux/arm64/v8"),
        ] {
            assert_eq!(chosen(wanted, &all).unwrap(), expected, "{wanted}");
        }
        assert_eq!(
            chosen("linux/s390x", &["linux/amd64", "unknown/unknown", "linux/arm/v6"]).unwrap_err(),
            "no image for linux/s390x here, only for linux/amd64, linux/arm/v6; choose one with --platform"
        );
    }

    #[test]
    fn documents_that_mislead_are_refused() {
        let descriptor = json!({ "digest": digest("x"), "size": 1 });
        let layers: Vec<_> = (0..501).map(|_| descriptor.clone()).collect();
        let manifests: Vec<_> = (0..1001).map(|_| descriptor.clone()).collect();
        for (document, message) in [
            (
                json!({ "manifests": [], "config": descriptor, "layers": [] }),
                "x claims to be a manifest and an index at once",
            ),
            (
                json!({ "schemaVersion": 2 }),
                "x is neither an image manifest nor an index",
            ),
            (
                json!({ "schemaVersion": 1, "fsLayers": [] }),
                "x is an image of Docker's first format, which no longer has a use: push it again with a current tool",
            ),
            (
                json!({ "config": descriptor, "layers": layers }),
                "the manifest x lists 501 layers; herd reads at most 500",
            ),
            (
                json!({ "manifests": manifests }),
                "the index x lists 1001 manifests; herd reads at most 1000",
            ),
            (
                json!({ "config": { "digest": digest("x"), "size": 9_000_000 }, "layers": [] }),
                &format!(
                    "{} is said to have 9000000 bytes; herd reads documents up to 4194304",
                    digest("x")
                ),
            ),
            (
                json!({ "config": { "digest": digest("x"), "size": -1 }, "layers": [] }),
                "x is not valid: invalid value: integer `-1`, expected u64 at line 1 column",
            ),
            (
                json!({ "config": { "digest": "sha512:00", "size": 1 }, "layers": [] }),
                "x is not valid: \"sha512:00\" is not a sha256 digest",
            ),
        ] {
            let error = Descent::new(Platform::host())
                .step("x", document.to_string().as_bytes())
                .unwrap_err();
            let error = format!("{:#}", anyhow::Error::from(error));
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn indexes_end_somewhere() {
        let index = json!({ "manifests": [{ "digest": digest("x"), "size": 1 }] }).to_string();
        let mut descent = Descent::new(Platform::host());
        descent.step("x", index.as_bytes()).unwrap();
        assert_eq!(
            descent.step("x", index.as_bytes()).unwrap_err().to_string(),
            "the index x contains itself"
        );
        let mut descent = Descent::new(Platform::host());
        let error = (0..9).find_map(|n| descent.step(&n.to_string(), index.as_bytes()).err());
        assert_eq!(
            error.unwrap().to_string(),
            "indexes lie in indexes more than 4 deep"
        );
    }
}
