//! Where herd keeps its socket and state when nothing says otherwise. Pure: the caller tells who it is.
//!
//! herd and its client verbs (`ps`, `stop`, `logs`) have to agree on these without reading the same
//! file, so they depend on nothing but the user.

use std::path::{Path, PathBuf};

use super::model::Config;

/// Root: `/run/herd`; else `$XDG_RUNTIME_DIR/herd` (an absolute path, by the XDG Base Directory
/// Specification), else `/tmp/herd-<uid>`.
pub fn default_state_dir(euid: u32, xdg_runtime_dir: Option<&Path>) -> PathBuf {
    match xdg_runtime_dir {
        _ if euid == 0 => PathBuf::from("/run/herd"),
        Some(runtime) if runtime.is_absolute() => runtime.join("herd"),
        _ => PathBuf::from(format!("/tmp/herd-{euid}")),
    }
}

/// `control.sock` in [`default_state_dir`].
pub fn default_control_socket(euid: u32, xdg_runtime_dir: Option<&Path>) -> PathBuf {
    default_state_dir(euid, xdg_runtime_dir).join("control.sock")
}

/// Who this process runs as: the arguments of the two functions above.
#[derive(Debug, Clone)]
pub struct User {
    pub euid: u32,
    pub xdg_runtime_dir: Option<PathBuf>,
}

impl User {
    /// The effective user of this process and its `XDG_RUNTIME_DIR`.
    pub fn current() -> Self {
        let xdg_runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        Self {
            euid: nix::unistd::geteuid().as_raw(),
            xdg_runtime_dir,
        }
    }

    pub fn control_socket(&self) -> PathBuf {
        default_control_socket(self.euid, self.xdg_runtime_dir.as_deref())
    }

    pub fn state_dir(&self) -> PathBuf {
        default_state_dir(self.euid, self.xdg_runtime_dir.as_deref())
    }
}

impl Config {
    /// The configured socket, or the user's default.
    pub fn control_socket_for(&self, user: &User) -> PathBuf {
        self.control_socket
            .clone()
            .unwrap_or_else(|| user.control_socket())
    }

    /// The configured directory, or the user's default.
    pub fn state_dir_for(&self, user: &User) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| user.state_dir())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_uses_run_and_others_their_runtime_directory() {
        let xdg = Some(Path::new("/run/user/1000"));
        assert_eq!(default_state_dir(0, xdg), Path::new("/run/herd"));
        assert_eq!(
            default_control_socket(0, None),
            Path::new("/run/herd/control.sock")
        );
        assert_eq!(default_state_dir(1000, xdg), Path::new("/run/user/1000/herd"));
        assert_eq!(
            default_control_socket(1000, xdg),
            Path::new("/run/user/1000/herd/control.sock")
        );
        assert_eq!(default_state_dir(1000, None), Path::new("/tmp/herd-1000"));
    }

    #[test]
    fn a_relative_or_empty_runtime_directory_does_not_count() {
        assert_eq!(
            default_state_dir(1000, Some(Path::new(""))),
            Path::new("/tmp/herd-1000")
        );
        assert_eq!(
            default_state_dir(1000, Some(Path::new("run"))),
            Path::new("/tmp/herd-1000")
        );
    }
}
