//! Blobs by their digest, shared by all pulls of this user.
//!
//! ```text
//!  blobs/sha256/HEX.partial (locked)  ──size and digest right──►  blobs/sha256/HEX
//! ```
//!
//! A partial one survives an interruption and is gone on with. What has the final name was verified under the
//! lock; whoever uses it verifies it again, because disks forget.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::Flock;
use sha2::{Digest as _, Sha256};

use crate::bundle::content::Sha256Digest;
use crate::sys::interrupt;
use crate::sys::lock::{self, Claim};

/// How often a blob that another herd is fetching is looked at.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// `$XDG_CACHE_HOME/herd`, by default `~/.cache/herd`.
    pub fn default_directory() -> Option<PathBuf> {
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        absolute("XDG_CACHE_HOME")
            .or_else(|| Some(absolute("HOME")?.join(".cache")))
            .map(|cache| cache.join("herd"))
    }

    pub(super) fn new(directory: PathBuf) -> io::Result<Self> {
        // Images may be private.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory.join("blobs/sha256"))?;
        Ok(Self { directory })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self, digest: &Sha256Digest) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.hex())
    }

    /// Whether the blob is there and right. A wrong one is removed.
    pub(super) fn has(&self, digest: &Sha256Digest, size: u64) -> io::Result<bool> {
        let path = self.path(digest);
        let file = match OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
        {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let right = file.metadata()?.len() == size && Sha256Digest(hash(&file)?.finalize().into()) == *digest;
        if !right {
            fs::remove_file(&path)?;
        }
        Ok(right)
    }

    /// The partial blob, ours alone from now on. `None`: another herd has just finished it.
    pub(super) async fn partial(&self, digest: &Sha256Digest, size: u64) -> io::Result<Option<Partial>> {
        let path = self.path(digest).with_extension("partial");
        loop {
            interrupt::check().map_err(io::Error::other)?;
            match lock::claim(&path)? {
                Claim::Ours(file) => {
                    return Ok(Some(Partial {
                        file,
                        path,
                        finished: self.path(digest),
                        hash: Sha256::new(),
                        length: 0,
                        size,
                        digest: *digest,
                    }));
                }
                Claim::Theirs(_) => tokio::time::sleep(LOOK).await,
                // Finished, most likely, and renamed.
                Claim::Gone if self.has(digest, size)? => return Ok(None),
                Claim::Gone => {}
            }
        }
    }
}

fn hash(mut file: &File) -> io::Result<Sha256> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        interrupt::check().map_err(io::Error::other)?;
        match file.read(&mut buffer)? {
            0 => return Ok(hash),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// A blob on its way.
#[derive(Debug)]
pub(super) struct Partial {
    file: Flock<File>,
    path: PathBuf,
    finished: PathBuf,
    hash: Sha256,
    length: u64,
    size: u64,
    digest: Sha256Digest,
}

impl Partial {
    /// Takes up what an earlier run left. Answers with its length in bytes.
    pub(super) fn resume(&mut self) -> io::Result<u64> {
        let length = self.file.metadata()?.len();
        if length > self.size {
            return self.restart().map(|()| 0);
        }
        self.file.seek(SeekFrom::Start(0))?;
        self.hash = hash(&self.file)?;
        self.length = length;
        Ok(length)
    }

    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hash = Sha256::new();
        self.length = 0;
        Ok(())
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// `false`: that would be more than was announced, and nothing was written.
    pub(super) fn append(&mut self, piece: &[u8]) -> io::Result<bool> {
        if piece.len() as u64 > self.size - self.length {
            return Ok(false);
        }
        self.file.write_all(piece)?;
        self.hash.update(piece);
        self.length += piece.len() as u64;
        Ok(true)
    }

    /// Gives the blob its final name if it is what it has to be; else answers with what it is, and it is gone.
    pub(super) fn finish(self) -> io::Result<Result<(), Sha256Digest>> {
        let is = Sha256Digest(self.hash.finalize().into());
        if is != self.digest {
            fs::remove_file(&self.path)?;
            return Ok(Err(is));
        }
        self.file.sync_all()?;
        fs::rename(&self.path, &self.finished)?;
        Ok(Ok(()))
    }
}
