//! Makes the worker of every row, and the root filesystem that it is alone in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/targets/life/tiny_worker.rs");

/// Where things are; every user may read them.
#[derive(Debug, Clone)]
pub(super) struct Tiny {
    pub(super) worker: PathBuf,
    /// With the worker as /worker.
    pub(super) rootfs: PathBuf,
}

impl Tiny {
    /// Compiles it with the compiler that made this program possible; a quarter of a second.
    pub(super) fn make(dir: &Path) -> anyhow::Result<Self> {
        let tiny = Self {
            worker: dir.join("tiny-worker"),
            rootfs: dir.join("rootfs"),
        };
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let made = Command::new(rustc)
            .args(["--edition", "2024", "--crate-name", "tiny_worker", "-O"])
            .args([
                "-C",
                "panic=abort",
                "-C",
                "relocation-model=static",
                "-C",
                "strip=symbols",
            ])
            .args([
                "-C",
                "link-arg=-nostdlib",
                "-C",
                "link-arg=-static",
                "-C",
                "link-arg=-no-pie",
            ])
            .arg(SOURCE)
            .arg("-o")
            .arg(&tiny.worker)
            .output()
            .context("cannot run rustc")?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for name in ["proc", "dev", "sys", "tmp", "etc", "run/herd"] {
            fs::create_dir_all(tiny.rootfs.join(name))?;
        }
        fs::copy(&tiny.worker, tiny.rootfs.join("worker"))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        Ok(tiny)
    }
}
