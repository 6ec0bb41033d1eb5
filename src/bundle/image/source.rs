//! An image, wherever its parts are: an OCI layout (directory or tar), a Docker archive, herd's cache.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::bundle::config::Config;
use crate::bundle::content::Sha256Digest;
use crate::bundle::root::{Limits, Root, RootError};

use super::account::{Limit, Metered};
use super::archive::{Archive, ArchiveError};
use super::blobs::{Blobs, Part};
use super::compression::decoder;
use super::document::{Configuration, Descent, DocumentError, Manifest, Platform, Step, parse};
use super::layer::{self, LayerError, Notes};
use super::user::{UserError, user};

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no image herd knows: neither an OCI layout (directory or tar) nor a Docker archive", .0.display())]
    Unknown(PathBuf),
    #[error("{}", path.display())]
    Archive {
        path: PathBuf,
        #[source]
        source: ArchiveError,
    },
    #[error("the image's part {0} is missing")]
    Missing(String),
    #[error("the image's part {part}")]
    Part {
        part: String,
        #[source]
        source: io::Error,
    },
    #[error("the image's part {part} has {is} bytes, not the {size} announced")]
    Size { part: String, size: u64, is: u64 },
    #[error("the image's part {part} is {is}: it was changed or damaged")]
    Digest { part: String, is: Sha256Digest },
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("layer {number} ({part})")]
    Layer {
        number: usize,
        part: String,
        #[source]
        source: LayerError,
    },
    #[error("layer {number} ({part}) unpacks to {is}, not to its diff_id {expected}")]
    DiffId {
        number: usize,
        part: String,
        is: Sha256Digest,
        expected: Sha256Digest,
    },
    #[error("the image's user")]
    User(#[from] UserError),
    #[error("the image's root filesystem")]
    Root(#[from] RootError),
}

/// An image for one platform, ready to be unpacked.
#[derive(Debug)]
pub struct Image {
    blobs: Blobs,
    layers: Vec<Part>,
    configuration: Configuration,
    source: String,
}

impl Image {
    /// An image in a file or directory. `name` chooses where there are several; `scratch` is for what has to be
    /// decompressed to be read.
    pub fn open(
        path: &Path,
        name: Option<&str>,
        platform: &Platform,
        scratch: &Path,
        limits: Limits,
    ) -> Result<Self, ImageError> {
        let unreadable = |source| ImageError::Read {
            path: path.to_owned(),
            source,
        };
        let metadata = path.metadata().map_err(unreadable)?;
        let source = path.display().to_string();
        if metadata.is_dir() {
            if !path.join("index.json").exists() {
                return Err(ImageError::Unknown(path.to_owned()));
            }
            return Self::layout(Blobs::Directory(path.to_owned()), name, platform, source);
        }
        if !metadata.is_file() {
            return Err(ImageError::Unknown(path.to_owned()));
        }
        let in_archive = |source| ImageError::Archive {
            path: path.to_owned(),
            source,
        };
        let archive = Archive::open(path, scratch, limits).map_err(in_archive)?;
        // Current Docker writes both; the layout is the one with a digest for everything.
        if archive.has("index.json") && archive.has("oci-layout") {
            return Self::layout(Blobs::Archive(archive), name, platform, source);
        }
        match archive.has("manifest.json") {
            true => Self::docker(archive, name, platform, source),
            false => Err(ImageError::Unknown(path.to_owned())),
        }
    }

    /// An image whose manifest is known, all parts being in `blobs`.
    pub fn from_manifest(
        blobs: Blobs,
        manifest: Manifest,
        platform: &Platform,
        source: String,
    ) -> Result<Self, ImageError> {
        let config = blobs.document(&Part::Blob(manifest.config))?;
        let configuration = Configuration::parse(&config, "the image's configuration")?;
        let layers = manifest.layers.into_iter().map(Part::Blob).collect();
        Self::checked(blobs, layers, configuration, platform, source)
    }

    fn layout(
        blobs: Blobs,
        name: Option<&str>,
        platform: &Platform,
        source: String,
    ) -> Result<Self, ImageError> {
        let mut descent = Descent::new(platform.clone());
        let index = blobs.document(&Part::Named("index.json".to_owned()))?;
        let mut step = descent.step_named("index.json", &index, name)?;
        loop {
            match step {
                Step::Image(manifest) => return Self::from_manifest(blobs, manifest, platform, source),
                Step::Next(descriptor) => {
                    let digest = descriptor.digest.to_string();
                    let text = blobs.document(&Part::Blob(descriptor))?;
                    step = descent.step(&digest, &text)?;
                }
            }
        }
    }

    fn docker(
        archive: Archive,
        name: Option<&str>,
        platform: &Platform,
        source: String,
    ) -> Result<Self, ImageError> {
        let blobs = Blobs::Archive(archive);
        let text = blobs.document(&Part::Named("manifest.json".to_owned()))?;
        let mut images: Vec<DockerImage> = parse(&text, "manifest.json")?;
        let names = |image: &DockerImage| image.repo_tags.clone().unwrap_or_default();
        let mut offered: Vec<String> = images.iter().flat_map(names).collect();
        if let Some(name) = name {
            images.retain(|image| names(image).iter().any(|tag| tag == name));
        }
        let image = match (images.pop(), images.is_empty(), name) {
            (Some(image), true, _) => image,
            (None, _, Some(name)) => {
                let name = name.to_owned();
                return Err(DocumentError::NoName { name, offered }.into());
            }
            (None, _, None) => return Err(DocumentError::Neither("manifest.json".to_owned()).into()),
            (Some(_), false, _) => {
                if offered.is_empty() {
                    offered.push("none of them has a name".to_owned());
                }
                return Err(DocumentError::Several { offered }.into());
            }
        };
        let config = blobs.document(&Part::Named(image.config.clone()))?;
        // The file is named after its content.
        let named = image.config.rsplit('/').next().unwrap_or_default();
        let named = named.strip_suffix(".json").unwrap_or(named);
        if let Ok(expected) = format!("sha256:{named}").parse::<Sha256Digest>() {
            let is = Sha256Digest::of(&config);
            if is != expected {
                let part = image.config;
                return Err(ImageError::Digest { part, is });
            }
        }
        let configuration = Configuration::parse(&config, &image.config)?;
        let layers = image.layers.into_iter().map(Part::Named).collect();
        Self::checked(blobs, layers, configuration, platform, source)
    }

    fn checked(
        blobs: Blobs,
        layers: Vec<Part>,
        configuration: Configuration,
        platform: &Platform,
        source: String,
    ) -> Result<Self, ImageError> {
        configuration.check_platform(platform)?;
        let diff_ids = configuration.rootfs.diff_ids.len();
        if diff_ids != layers.len() {
            let layers = layers.len();
            return Err(DocumentError::DiffIds { layers, diff_ids }.into());
        }
        Ok(Self {
            blobs,
            layers,
            configuration,
            source,
        })
    }

    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Unpacks every layer. `started` hears the number of each before it begins, from 0.
    pub fn unpack(
        &self,
        root: &mut Root,
        mut started: impl FnMut(usize),
    ) -> Result<(Config, Notes), ImageError> {
        let mut notes = Notes::default();
        let limit = root.limits().bytes;
        let mut used = 0;
        for (index, (part, expected)) in self
            .layers
            .iter()
            .zip(&self.configuration.rootfs.diff_ids)
            .enumerate()
        {
            started(index);
            let number = index + 1;
            let in_part = |source| ImageError::Part {
                part: part.to_string(),
                source,
            };
            let (compressed, size) = self.blobs.open(part)?;
            let compressed = Metered::new(compressed, Limit::Announced(size));
            let plain = decoder(compressed).map_err(in_part)?;
            // One limit for all layers; whoever raises it is told the number that was meant.
            let plain = Metered::new(plain, Limit::Unpacked(limit)).starting_at(used);
            let plain = layer::apply(plain, root, &mut notes).map_err(|source| ImageError::Layer {
                number,
                part: part.to_string(),
                source,
            })?;
            // To the end: what follows the archive belongs to the digest, too.
            let (total, is) = plain.finish().map_err(in_part)?;
            used = total;
            if is != *expected {
                return Err(ImageError::DiffId {
                    number,
                    part: part.to_string(),
                    is,
                    expected: *expected,
                });
            }
        }
        Ok((self.config(root)?, notes))
    }

    fn config(&self, root: &mut Root) -> Result<Config, ImageError> {
        let execution = self.configuration.config.clone().unwrap_or_default();
        let mut args = execution.entrypoint.unwrap_or_default();
        args.extend(execution.cmd.unwrap_or_default());
        let cwd = execution.working_dir.filter(|cwd| !cwd.is_empty());
        Ok(Config {
            args,
            env: execution.env.unwrap_or_default(),
            cwd: cwd.unwrap_or_else(|| "/".to_owned()),
            user: user(&execution.user.unwrap_or_default(), root)?,
            labels: execution.labels.unwrap_or_default(),
            architecture: self.configuration.platform.architecture.clone(),
            source: self.source.clone(),
        })
    }
}

/// An entry of a Docker archive's manifest.json.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}
