//! A bundle on its way to existence.
//!
//! ```text
//!  new ──► .NAME.herd-staging/ (locked) ──► finish ──► NAME/
//!                  │ dropped: error, interrupt            rename(2): there is no half bundle
//!                  ▼
//!               removed          SIGKILL: the lock is free, the next run for NAME removes it
//! ```

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::sys::{interrupt, rename};

use super::MANIFEST;
use super::config::{Config, Content, MOUNT_POINTS, User};
use super::content::{Entries, Entry, Sha256Digest, digest, escape, size, unescape};
use super::remove::{is_bundle, remove_tree, staging_name};
use super::root::{Attributes, Limits, Root, RootError};

/// What to do with an output that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    Refuse,
    /// Exchange it in one step; it has to be a bundle.
    Replace,
}

#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    #[error("{} is no name for a bundle: it has to end in the name of a new directory", .0.display())]
    Name(PathBuf),
    #[error("{} exists; choose another --output, or replace it with --force", .0.display())]
    Exists(PathBuf),
    #[error("{} is not a bundle, so --force does not replace it; remove it yourself or choose another --output", .0.display())]
    NotABundle(PathBuf),
    #[error("another herd is making {}; wait for it", .0.display())]
    Busy(PathBuf),
    #[error("cannot {doing} {}", .path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path}")]
    Root {
        path: String,
        #[source]
        source: RootError,
    },
    #[error(transparent)]
    Interrupted(#[from] interrupt::Interrupted),
}

fn cannot(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StagingError {
    let path = path.to_owned();
    move |source| StagingError::Io { doing, path, source }
}

/// A bundle being made; dropped unfinished, it never was.
#[derive(Debug)]
pub struct Staging {
    output: PathBuf,
    directory: PathBuf,
    existing: Existing,
    root: Root,
    /// Held as long as the directory is ours.
    _lock: Flock<File>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    pub output: PathBuf,
    pub digest: Sha256Digest,
    pub entries: usize,
    /// Bytes.
    pub size: u64,
}

impl Staging {
    /// Nothing of `output` is touched before [`Staging::finish`]; missing parents of it are made.
    pub fn new(output: &Path, existing: Existing, limits: Limits) -> Result<Self, StagingError> {
        interrupt::check()?;
        let absolute = std::path::absolute(output).map_err(cannot("find", output))?;
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return Err(StagingError::Name(output.to_owned()));
        };
        check_output(output, existing)?;
        fs::create_dir_all(parent).map_err(cannot("create the directory", parent))?;
        let directory = parent.join(staging_name(name));
        let lock = claim(&directory, output)?;
        let rootfs = directory.join("rootfs");
        let root = fs::create_dir(&rootfs)
            .and_then(|()| File::open(&rootfs))
            .map_err(cannot("create the directory", &rootfs));
        let root = match root {
            Ok(root) => Root::new(OwnedFd::from(root), &rootfs, limits),
            Err(error) => {
                let _ = remove_tree(&directory);
                return Err(error);
            }
        };
        Ok(Self {
            output: output.to_owned(),
            directory,
            existing,
            root,
            _lock: lock,
        })
    }

    /// Where everything is written.
    pub fn root(&mut self) -> &mut Root {
        &mut self.root
    }

    /// A directory for intermediate files; gone before the bundle is.
    pub fn scratch(&self) -> Result<PathBuf, StagingError> {
        let scratch = self.directory.join("scratch");
        match fs::create_dir(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(cannot("create the directory", &scratch)(error))
            }
            _ => Ok(scratch),
        }
    }

    /// Writes config.json and the manifest, makes everything durable and moves it to its place.
    pub fn finish(mut self, config: &Config) -> Result<Finished, StagingError> {
        self.mount_points(config)?;
        let scratch = self.directory.join("scratch");
        if scratch.exists() {
            remove_tree(&scratch).map_err(cannot("remove", &scratch))?;
        }
        let maker = User {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
        };
        let entries = self.root.seal().map_err(|source| StagingError::Root {
            path: "the root filesystem".to_owned(),
            source,
        })?;
        let digest = digest(&config.digested(), &entries);
        let finished = Finished {
            output: self.output.clone(),
            digest,
            entries: entries.len(),
            size: size(&entries),
        };
        let content = Content {
            digest,
            size: finished.size,
            entries: finished.entries,
        };
        let mut spec = format!("{:#}", config.spec(&content, maker));
        spec.push('\n');
        let manifest = Manifest {
            version: 1,
            digest,
            config: Sha256Digest::of(spec.as_bytes()),
            digested: config.digested(),
            size: finished.size,
            entries,
        };
        self.write("config.json", spec.as_bytes())?;
        self.write(MANIFEST, &manifest.to_json())?;
        sync(&self.directory)?;
        interrupt::check()?;
        self.publish()?;
        Ok(finished)
    }

    fn mount_points(&mut self, config: &Config) -> Result<(), StagingError> {
        let cwd = config.cwd();
        for (path, mode) in MOUNT_POINTS.into_iter().chain([(cwd.as_str(), 0o755)]) {
            let made = self
                .root
                .follow(Path::new(path))
                .and_then(|at| match self.root.kind(&at)? {
                    Some(_) => Ok(()),
                    None => self.root.directory(&at, &Attributes::new(mode)),
                });
            made.map_err(|source| StagingError::Root {
                path: escape(OsStr::new(path)),
                source,
            })?;
        }
        Ok(())
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), StagingError> {
        let path = self.directory.join(name);
        File::create_new(&path)
            .and_then(|mut file| {
                file.write_all(content)?;
                file.sync_all()
            })
            .map_err(cannot("write", &path))
    }

    fn publish(&self) -> Result<(), StagingError> {
        // Asked again: building may have taken a while.
        let moved = match check_output(&self.output, self.existing)? {
            true => rename::exchange(&self.directory, &self.output),
            false => rename::without_replacing(&self.directory, &self.output),
        };
        moved.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => StagingError::Exists(self.output.clone()),
            _ => cannot("move the finished bundle to", &self.output)(error),
        })?;
        // After an exchange the old bundle stands where the new one was made; dropping removes it there.
        match self.directory.parent() {
            Some(parent) => sync(parent),
            None => Ok(()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // The next run for this output would do it, too. After a finish without an exchange nothing is there.
        let _ = remove_tree(&self.directory);
    }
}

/// Whether there is something to replace; an error if it must not be.
fn check_output(output: &Path, existing: Existing) -> Result<bool, StagingError> {
    match (output.symlink_metadata(), existing) {
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        (Err(error), _) => Err(cannot("look at", output)(error)),
        (Ok(_), Existing::Refuse) => Err(StagingError::Exists(output.to_owned())),
        (Ok(_), Existing::Replace) if is_bundle(output) => Ok(true),
        (Ok(_), Existing::Replace) => Err(StagingError::NotABundle(output.to_owned())),
    }
}

/// Makes the directory and locks it, after removing what a killed run left there.
fn claim(directory: &Path, output: &Path) -> Result<Flock<File>, StagingError> {
    let busy = || StagingError::Busy(output.to_owned());
    // A second round follows a leftover; a third one can only mean that others are at it, too.
    for _ in 0..3 {
        match fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(cannot("create the directory", directory)(error));
            }
            made => {
                let file = match File::open(directory) {
                    Ok(file) => file,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(cannot("open", directory)(error)),
                };
                let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                    Ok(lock) => lock,
                    Err((_, Errno::EWOULDBLOCK)) => return Err(busy()),
                    Err((_, errno)) => return Err(cannot("lock", directory)(errno.into())),
                };
                // Between our open and our lock another run may have removed it as a leftover.
                let same = || {
                    let (ours, there) = (lock.metadata()?, directory.symlink_metadata()?);
                    io::Result::Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
                };
                match (same(), made) {
                    (Ok(true), Ok(())) => return Ok(lock),
                    (Ok(true), Err(_)) => {
                        remove_tree(directory).map_err(cannot("remove the leftover", directory))?
                    }
                    _ => return Err(busy()),
                }
            }
        }
    }
    Err(busy())
}

fn sync(directory: &Path) -> Result<(), StagingError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(cannot("write to disk", directory))
}

/// The file [`MANIFEST`]: what was written, entry by entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub version: u32,
    pub digest: Sha256Digest,
    /// Of config.json as it was written.
    pub config: Sha256Digest,
    /// The part of the configuration that the digest covers.
    pub digested: String,
    /// Bytes.
    pub size: u64,
    pub entries: Entries,
}

#[derive(Serialize, Deserialize)]
struct ManifestFile {
    version: u32,
    digest: Sha256Digest,
    config: Sha256Digest,
    digested: String,
    size: u64,
    entries: Vec<ManifestEntry>,
}

#[derive(Serialize, Deserialize)]
struct ManifestEntry {
    path: String,
    #[serde(flatten)]
    entry: Entry,
}

impl Manifest {
    fn to_json(&self) -> Vec<u8> {
        let entries = self.entries.iter().map(|(path, entry)| ManifestEntry {
            path: escape(path.as_os_str()),
            entry: entry.clone(),
        });
        let file = ManifestFile {
            version: self.version,
            digest: self.digest,
            config: self.config,
            digested: self.digested.clone(),
            size: self.size,
            entries: entries.collect(),
        };
        // Numbers, strings and lists of them: there is nothing that JSON cannot say.
        serde_json::to_vec(&file).unwrap_or_default()
    }

    /// `None`: it is no manifest, or one that contradicts itself.
    pub fn from_json(text: &[u8]) -> Option<Self> {
        let file: ManifestFile = serde_json::from_slice(text).ok()?;
        let entries: Option<Entries> = file
            .entries
            .into_iter()
            .map(|entry| Some((unescape(&entry.path)?, entry.entry)))
            .collect();
        let entries = entries?;
        (file.version == 1 && digest(&file.digested, &entries) == file.digest).then_some(Self {
            version: file.version,
            digest: file.digest,
            config: file.config,
            digested: file.digested,
            size: file.size,
            entries,
        })
    }
}
