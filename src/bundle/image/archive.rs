//! An image in one file: a tar archive, compressed or not, read in the order that images need.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::bundle::root::Limits;

use super::account::{Limit, Metered};
use super::compression::decoder;
use super::stream::{MemberKind, Stream, StreamError};

/// An archive of an image has a few files for each layer.
const MEMBERS_MAX: usize = 100_000;
/// Docker's archives have links from layer to equal layer; longer chains are games.
const LINKS_MAX: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("cannot read it")]
    Read(#[source] io::Error),
    #[error("is no tar archive herd can read")]
    Stream(#[from] StreamError),
    #[error("{0} is in it twice, so it is not clear what the image is")]
    Twice(String),
    #[error("it has more than {MEMBERS_MAX} members")]
    TooMany,
}

/// The archive and where its members are.
#[derive(Debug)]
pub struct Archive {
    file: File,
    members: HashMap<String, Place>,
}

#[derive(Debug)]
enum Place {
    File { offset: u64, size: u64 },
    Link(String),
}

impl Archive {
    /// Finds the members. What is compressed is decompressed into `scratch`, within the limits.
    pub(super) fn open(path: &Path, scratch: &Path, limits: Limits) -> Result<Self, ArchiveError> {
        let file = File::open(path).map_err(ArchiveError::Read)?;
        let file = plain(file, scratch, limits).map_err(ArchiveError::Read)?;
        let mut members = HashMap::new();
        let mut stream = Stream::new(Metered::new(io::BufReader::new(&file), Limit::None));
        while let Some(member) = stream.next()? {
            let Ok(name) = String::from_utf8(member.name) else {
                continue;
            };
            let Some(name) = normal("", &name) else {
                continue;
            };
            let place = match member.kind {
                MemberKind::File => Place::File {
                    offset: stream.position(),
                    size: member.size,
                },
                MemberKind::Symlink | MemberKind::Hardlink => {
                    let target = String::from_utf8_lossy(&member.link);
                    let directory = match member.kind {
                        MemberKind::Symlink => name.rsplit_once('/').map_or("", |(directory, _)| directory),
                        _ => "",
                    };
                    match normal(directory, &target) {
                        Some(target) => Place::Link(target),
                        None => continue,
                    }
                }
                MemberKind::Directory | MemberKind::Special => continue,
            };
            if members.insert(name.clone(), place).is_some() {
                return Err(ArchiveError::Twice(name.escape_debug().to_string()));
            }
            if members.len() > MEMBERS_MAX {
                return Err(ArchiveError::TooMany);
            }
        }
        Ok(Self { file, members })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// A member and its size in bytes; links within the archive are followed.
    pub(super) fn member(&self, name: &str) -> Option<(Section<'_>, u64)> {
        let mut name = normal("", name)?;
        for _ in 0..LINKS_MAX {
            match self.members.get(&name)? {
                Place::Link(target) => name = target.clone(),
                Place::File { offset, size } => {
                    let section = Section {
                        file: &self.file,
                        offset: *offset,
                        left: *size,
                    };
                    return Some((section, *size));
                }
            }
        }
        None
    }
}

/// A part of a file.
#[derive(Debug)]
pub(super) struct Section<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// The file itself, or its decompressed content in a new file without a name.
fn plain(mut file: File, scratch: &Path, limits: Limits) -> io::Result<File> {
    let mut magic = Vec::new();
    (&file).take(4).read_to_end(&mut magic)?;
    file.rewind()?;
    let compressed = matches!(
        magic.as_slice(),
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] | [_, 0x2a, 0x4d, 0x18]
    ) || magic.starts_with(b"BZh")
        || magic == [0xfd, b'7', b'z', b'X'];
    if !compressed {
        return Ok(file);
    }
    let path = scratch.join("archive");
    let mut plain = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    let content = decoder(Metered::new(file, Limit::None))?;
    io::copy(
        &mut Metered::new(content, Limit::Unpacked(limits.bytes)),
        &mut plain,
    )?;
    plain.rewind()?;
    Ok(plain)
}

/// `./a/../b` is `b`. `None` for what is outside the archive.
fn normal(directory: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    let directory = if path.starts_with('/') { "" } else { directory };
    for part in directory.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}
