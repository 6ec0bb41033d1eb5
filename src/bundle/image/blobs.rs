//! The parts of an image, read only after their size and digest were found right.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use super::account::{Limit, Metered};
use super::archive::Archive;
use super::document::{DOCUMENT_MAX, Descriptor};
use super::source::ImageError;

/// Where the parts are.
#[derive(Debug)]
pub enum Blobs {
    /// Blobs below `blobs/sha256/` of this directory.
    Directory(PathBuf),
    Archive(Archive),
}

/// One part of an image, a layer or a document.
#[derive(Debug, Clone)]
pub enum Part {
    Blob(Descriptor),
    /// A file with a name of its own; layers in a Docker archive have no digest before they are unpacked.
    Named(String),
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blob(descriptor) => write!(f, "{}", descriptor.digest),
            Self::Named(name) => write!(f, "{}", name.escape_debug()),
        }
    }
}

impl Part {
    fn path(&self) -> String {
        match self {
            Self::Blob(descriptor) => format!("blobs/sha256/{}", descriptor.digest.hex()),
            Self::Named(name) => name.clone(),
        }
    }
}

impl Blobs {
    /// A part and its size in bytes, verified against its descriptor.
    pub(super) fn open(&self, part: &Part) -> Result<(Box<dyn Read + '_>, u64), ImageError> {
        let (reader, size) = self.unverified(part)?;
        let Part::Blob(descriptor) = part else {
            return Ok((reader, size));
        };
        let name = || part.to_string();
        if size != descriptor.size {
            return Err(ImageError::Size {
                part: name(),
                size: descriptor.size,
                is: size,
            });
        }
        let failed = |source| ImageError::Part { part: name(), source };
        let (_, is) = Metered::new(reader, Limit::Announced(size))
            .finish()
            .map_err(failed)?;
        match is == descriptor.digest {
            true => self.unverified(part),
            false => Err(ImageError::Digest { part: name(), is }),
        }
    }

    /// A whole JSON document.
    pub(super) fn document(&self, part: &Part) -> Result<Vec<u8>, ImageError> {
        if let Part::Blob(descriptor) = part {
            descriptor.check_document()?;
        }
        let failed = |source| ImageError::Part {
            part: part.to_string(),
            source,
        };
        let (reader, _) = self.open(part)?;
        let mut text = Vec::new();
        Metered::new(reader, Limit::Announced(DOCUMENT_MAX))
            .read_to_end(&mut text)
            .map_err(failed)?;
        Ok(text)
    }

    fn unverified(&self, part: &Part) -> Result<(Box<dyn Read + '_>, u64), ImageError> {
        let missing = || ImageError::Missing(part.to_string());
        match self {
            Self::Archive(archive) => {
                let (section, size) = archive.member(&part.path()).ok_or_else(missing)?;
                Ok((Box::new(section), size))
            }
            Self::Directory(directory) => {
                // O_NONBLOCK: a pipe there must not make herd wait for its other end.
                let file = OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_NONBLOCK)
                    .open(directory.join(part.path()));
                let file = match file {
                    Ok(file) => file,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
                    Err(source) => {
                        let part = part.to_string();
                        return Err(ImageError::Part { part, source });
                    }
                };
                match file.metadata() {
                    Ok(metadata) if metadata.is_file() => Ok((Box::new(file), metadata.len())),
                    _ => Err(missing()),
                }
            }
        }
    }
}
