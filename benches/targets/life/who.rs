//! As whom something runs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::unistd::{User, geteuid};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Root,
    /// A user without subordinate ids.
    Single(u32),
    /// A user with them.
    Subordinate(u32),
}

const NOBODY: u32 = 65_534;

impl Who {
    /// Only root can be somebody else.
    pub(super) fn single() -> Self {
        match geteuid().is_root() {
            true => Self::Single(NOBODY),
            false => Self::Single(geteuid().as_raw()),
        }
    }

    /// The first user that /etc/subuid names.
    pub(super) fn subordinate() -> Option<Self> {
        let text = fs::read_to_string("/etc/subuid").ok()?;
        let user = User::from_name(text.lines().next()?.split(':').next()?).ok()??;
        (geteuid().is_root() && crate::lab::program("newuidmap").is_some())
            .then(|| Self::Subordinate(user.uid.as_raw()))
    }

    /// Who runs this, where that is not root.
    pub(super) fn or_own(self) -> Self {
        match geteuid().is_root() {
            true => self,
            false => Self::single(),
        }
    }

    pub(super) fn id(self) -> u32 {
        match self {
            Self::Root => 0,
            Self::Single(id) | Self::Subordinate(id) => id,
        }
    }

    pub(super) fn short(self) -> &'static str {
        match self {
            Self::Root => "r",
            Self::Single(_) => "u",
            Self::Subordinate(_) => "s",
        }
    }

    /// Before a command line, so that it runs as this user, and ends with whoever started it.
    pub(super) fn words(self) -> Vec<String> {
        let mut words = vec!["setpriv".to_owned()];
        if geteuid().as_raw() != self.id() {
            let id = self.id().to_string();
            words.extend(["--reuid", &id, "--regid", &id, "--clear-groups"].map(str::to_owned));
        }
        words.extend(["--pdeathsig", "KILL", "--"].map(str::to_owned));
        words
    }

    pub(super) fn give(self, path: &Path) -> anyhow::Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        if geteuid().is_root() {
            chown(path, Some(self.id()), Some(self.id()))?;
        }
        Ok(())
    }

    /// A copy that this user may run, where the original may be out of its reach.
    pub(super) fn program(self, program: &Path, scratch: &Path) -> anyhow::Result<PathBuf> {
        if geteuid().as_raw() == self.id() {
            return Ok(program.to_owned());
        }
        fs::set_permissions(scratch, fs::Permissions::from_mode(0o755))?;
        let copy = scratch.join(program.file_name().context("a program has a name")?);
        if !copy.exists() {
            fs::copy(program, &copy)?;
        }
        Ok(copy)
    }
}
