//! Where herd keeps its socket and state when nothing says otherwise. Pure: the caller tells who it is.
//!
//! herd and its client verbs (`ps`, `stop`, `logs`) have to agree on these without reading the same
//! file, so they depend on nothing but the user.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
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

/// Where things are kept that outlive a run: what systemd has made for the service (`StateDirectory=`, systemd.exec(5)); else
/// root: `/var/lib/herd`; else by the XDG Base Directory Specification. `None`: no home, so nowhere.
pub fn default_history_dir(
    euid: u32,
    state_directory: Option<&OsStr>,
    xdg_state_home: Option<&Path>,
    home: Option<&Path>,
) -> Option<PathBuf> {
    // Several are separated by colons; the first is as good as any.
    let of_service = state_directory
        .and_then(|all| all.as_bytes().split(|byte| *byte == b':').next())
        .map(|first| Path::new(OsStr::from_bytes(first)));
    let absolute = |path: &&Path| path.is_absolute();
    if let Some(dir) = of_service.filter(absolute) {
        return Some(dir.to_owned());
    }
    if euid == 0 {
        return Some(PathBuf::from("/var/lib/herd"));
    }
    let of_home = || Some(home.filter(absolute)?.join(".local/state"));
    let state = xdg_state_home
        .filter(absolute)
        .map(Path::to_owned)
        .or_else(of_home);
    state.map(|state| state.join("herd"))
}

/// Who this process runs as: the arguments of the functions above.
#[derive(Debug, Clone)]
pub struct User {
    pub euid: u32,
    pub xdg_runtime_dir: Option<PathBuf>,
    pub state_directory: Option<OsString>,
    pub xdg_state_home: Option<PathBuf>,
    pub home: Option<PathBuf>,
}

impl User {
    /// The effective user of this process and its `XDG_RUNTIME_DIR`.
    pub fn current() -> Self {
        let path = |variable| std::env::var_os(variable).map(PathBuf::from);
        Self {
            euid: nix::unistd::geteuid().as_raw(),
            xdg_runtime_dir: path("XDG_RUNTIME_DIR"),
            state_directory: std::env::var_os("STATE_DIRECTORY"),
            xdg_state_home: path("XDG_STATE_HOME"),
            home: path("HOME"),
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

    /// The configured directory; beside the rest of a herd that has its own place; or the user's default, if there is one.
    pub fn history_dir_for(&self, user: &User) -> Option<PathBuf> {
        let configured = self.history.dir.clone().or_else(|| self.state_dir.clone());
        configured.or_else(|| {
            default_history_dir(
                user.euid,
                user.state_directory.as_deref(),
                user.xdg_state_home.as_deref(),
                user.home.as_deref(),
            )
        })
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

    #[test]
    fn history_is_kept_where_a_restart_of_the_host_leaves_it() {
        let (xdg, home) = (Some(Path::new("/x")), Some(Path::new("/home/u")));
        let service = Some(OsStr::new("/var/lib/a:/var/lib/b"));
        let dir = |euid, service, xdg, home| default_history_dir(euid, service, xdg, home);
        let at = |path: &str| Some(PathBuf::from(path));
        assert_eq!(dir(0, service, xdg, home), at("/var/lib/a"));
        assert_eq!(dir(1000, service, xdg, home), at("/var/lib/a"));
        assert_eq!(dir(0, None, xdg, home), at("/var/lib/herd"));
        assert_eq!(dir(1000, None, xdg, home), at("/x/herd"));
        assert_eq!(
            dir(1000, None, Some(Path::new("x")), home),
            at("/home/u/.local/state/herd")
        );
        assert_eq!(dir(1000, Some(OsStr::new("")), None, None), None);
    }
}
