//! Reading a bundle, whoever made it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open as open_path, openat2};
use nix::sys::stat::Mode;
use oci_spec::runtime::Spec;
use serde::Deserialize;

use super::ANNOTATIONS;
use super::config::{PATH, User};

/// More than any real config.json, in bytes.
const CONFIG_MAX: u64 = 4 << 20;

/// A bundle as its config.json describes it.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The bundle's directory.
    pub path: PathBuf,
    /// Its root filesystem: a directory when it was looked at.
    pub rootfs: PathBuf,
    /// Program and arguments; empty where config.json has no `process`.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute.
    pub cwd: PathBuf,
    /// The user meant. config.json may have root instead: see `docs/bundles.md`.
    pub user: User,
    pub additional_gids: Vec<u32>,
    pub annotations: BTreeMap<String, String>,
    /// All of config.json.
    pub spec: Spec,
}

/// Why a directory cannot be used as a bundle.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{} does not exist; make the bundle with `herd bundle`, or correct the path", .0.display())]
    Missing(PathBuf),
    #[error("{} is not a directory; a bundle is a directory with config.json and rootfs", .0.display())]
    NotADirectory(PathBuf),
    #[error("{} has no config.json, so it is not a bundle; `herd bundle build` makes one of a recipe", .0.display())]
    NoConfig(PathBuf),
    #[error("{}: no permission to read it", .0.display())]
    Permission(PathBuf),
    #[error("cannot read {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: larger than 4 MiB", .0.display())]
    TooLarge(PathBuf),
    /// Its source's message ends in line and column.
    #[error("{} is not a valid config.json", path.display())]
    Malformed {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{}: ociVersion {version:?} is not 1.x, the only one herd understands", path.display())]
    Version { path: PathBuf, version: String },
    #[error("{}: has no `root`, so there is no root filesystem", .0.display())]
    NoRoot(PathBuf),
    #[error("{}: process.cwd {cwd:?} is not an absolute path", path.display())]
    Cwd { path: PathBuf, cwd: String },
    #[error("{}: the root filesystem {} {what}", config.display(), rootfs.display())]
    Rootfs {
        config: PathBuf,
        rootfs: PathBuf,
        what: &'static str,
    },
}

/// Why a program would not start in a bundle.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("{program:?} is not in {}{}", rootfs.display(), searched(.path))]
    Missing {
        program: String,
        rootfs: PathBuf,
        /// The bundle's PATH, where the program has no slash.
        path: Option<String>,
    },
    #[error("{program:?} in {} is not an executable file", rootfs.display())]
    NotExecutable { program: String, rootfs: PathBuf },
    #[error("{program:?} in {} is for {found}, and this machine is {}", rootfs.display(), std::env::consts::ARCH)]
    Architecture {
        program: String,
        rootfs: PathBuf,
        found: &'static str,
    },
    #[error("cannot look for {program:?} in {}", rootfs.display())]
    Io {
        program: String,
        rootfs: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn searched(path: &Option<String>) -> String {
    path.as_ref()
        .map_or_else(String::new, |path| format!(" (PATH there is {path})"))
}

/// Reads config.json and looks at the root filesystem; nothing else is touched.
pub fn open(directory: &Path) -> Result<Bundle, OpenError> {
    match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(OpenError::NotADirectory(directory.to_owned())),
        Err(error) => {
            return Err(match error.kind() {
                io::ErrorKind::NotFound => OpenError::Missing(directory.to_owned()),
                io::ErrorKind::NotADirectory => OpenError::NotADirectory(directory.to_owned()),
                _ => failed(directory, error),
            });
        }
    }
    let config = directory.join("config.json");
    let text = read_config(directory, &config)?;
    let malformed = |source| OpenError::Malformed {
        path: config.clone(),
        source,
    };
    // First the version alone: a newer configuration may have another shape.
    let Version { version } = serde_json::from_slice(&text).map_err(malformed)?;
    if version.split('.').next() != Some("1") {
        return Err(OpenError::Version {
            path: config,
            version,
        });
    }
    let spec: Spec = serde_json::from_slice(&text).map_err(malformed)?;
    let Some(root) = spec.root() else {
        return Err(OpenError::NoRoot(config));
    };
    let rootfs = directory.join(root.path());
    check_rootfs(&config, &rootfs)?;
    let mut bundle = Bundle {
        path: directory.to_owned(),
        rootfs,
        args: Vec::new(),
        env: Vec::new(),
        cwd: PathBuf::from("/"),
        user: User::ROOT,
        additional_gids: Vec::new(),
        annotations: spec.annotations().clone().into_iter().flatten().collect(),
        spec,
    };
    if let Some(process) = bundle.spec.process() {
        bundle.args = process.args().clone().unwrap_or_default();
        bundle.env = process.env().clone().unwrap_or_default();
        bundle.cwd = process.cwd().clone();
        bundle.user = User {
            uid: process.user().uid(),
            gid: process.user().gid(),
        };
        bundle.additional_gids = process.user().additional_gids().clone().unwrap_or_default();
        if !bundle.cwd.is_absolute() {
            let cwd = bundle.cwd.to_string_lossy().into_owned();
            return Err(OpenError::Cwd { path: config, cwd });
        }
    }
    // Where herd had to write another one into config.json, which rootless runtimes read.
    if let Some((uid, gid)) = bundle.annotation("user").and_then(|user| user.split_once(':'))
        && let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse())
    {
        bundle.user = User { uid, gid };
    }
    Ok(bundle)
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "ociVersion")]
    version: String,
}

fn failed(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => OpenError::Permission(path),
        _ => OpenError::Io { path, source },
    }
}

fn read_config(directory: &Path, config: &Path) -> Result<Vec<u8>, OpenError> {
    let metadata = fs::metadata(config).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => OpenError::NoConfig(directory.to_owned()),
        _ => failed(config, error),
    })?;
    if !metadata.is_file() {
        // Opening a pipe would wait for its other end.
        return Err(OpenError::NoConfig(directory.to_owned()));
    }
    let mut text = Vec::new();
    let file = File::open(config).map_err(|error| failed(config, error))?;
    file.take(CONFIG_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|error| failed(config, error))?;
    match text.len() as u64 > CONFIG_MAX {
        true => Err(OpenError::TooLarge(config.to_owned())),
        false => Ok(text),
    }
}

fn check_rootfs(config: &Path, rootfs: &Path) -> Result<(), OpenError> {
    let what = match fs::metadata(rootfs) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => "is not a directory",
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => "does not exist",
            io::ErrorKind::NotADirectory => "is not a directory",
            _ => return Err(failed(rootfs, error)),
        },
    };
    Err(OpenError::Rootfs {
        config: config.to_owned(),
        rootfs: rootfs.to_owned(),
        what,
    })
}

impl Bundle {
    /// The digest that herd recorded, if herd made this bundle.
    pub fn digest(&self) -> Option<&str> {
        self.annotation("digest")
    }

    /// One of herd's own annotations.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations
            .get(&format!("{ANNOTATIONS}{name}"))
            .map(String::as_str)
    }

    /// The value of a variable in the bundle's environment; the last one counts, as for a shell.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let value = |entry: &'_ String| -> Option<usize> {
            (entry.strip_prefix(name)?.starts_with('=')).then_some(name.len() + 1)
        };
        self.env
            .iter()
            .rev()
            .find_map(|entry| value(entry).map(|at| &entry[at..]))
    }

    /// Whether `program` (a path, or a name for PATH) is an executable file of this bundle and for this machine.
    /// Reads the first bytes of it. What is no ELF file, a script for instance, counts as right.
    pub fn check_program(&self, program: &str) -> Result<(), ProgramError> {
        let io = |errno: Errno| ProgramError::Io {
            program: program.to_owned(),
            rootfs: self.rootfs.clone(),
            source: errno.into(),
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open_path(&self.rootfs, flags, Mode::empty()).map_err(io)?;
        let path = match program.contains('/') {
            true => None,
            false => Some(self.variable("PATH").unwrap_or(PATH).to_owned()),
        };
        let candidates: Vec<PathBuf> = match &path {
            Some(path) => path
                .split(':')
                .map(|place| self.cwd.join(place).join(program))
                .collect(),
            None => vec![self.cwd.join(program)],
        };
        let mut refusal = ProgramError::Missing {
            program: program.to_owned(),
            rootfs: self.rootfs.clone(),
            path,
        };
        for candidate in candidates {
            // Inside the root: a link to /usr/bin/x means the bundle's, not the host's. O_NONBLOCK: no waiting
            // for the other end of a pipe.
            let how = OpenHow::new()
                .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
            let file = match openat2(&root, &candidate, how) {
                Ok(file) => File::from(file),
                Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
                Err(errno) => return Err(io(errno)),
            };
            let executable = file
                .metadata()
                .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0);
            if !executable {
                refusal = ProgramError::NotExecutable {
                    program: program.to_owned(),
                    rootfs: self.rootfs.clone(),
                };
                continue;
            }
            return match foreign(&file) {
                Some(found) => Err(ProgramError::Architecture {
                    program: program.to_owned(),
                    rootfs: self.rootfs.clone(),
                    found,
                }),
                None => Ok(()),
            };
        }
        Err(refusal)
    }
}

/// The architecture of an ELF file that this machine cannot run.
fn foreign(mut file: &File) -> Option<&'static str> {
    let mut header = [0; 20];
    file.read_exact(&mut header).ok()?;
    if !header.starts_with(b"\x7fELF") {
        return None;
    }
    // System V ABI, "ELF Header": byte 5 is the byte order, bytes 18 and 19 are e_machine.
    let machine = [header[18], header[19]];
    let machine = match header[5] {
        2 => u16::from_be_bytes(machine),
        _ => u16::from_le_bytes(machine),
    };
    let (name, runs_on): (_, &[&str]) = match machine {
        3 => ("x86", &["x86", "x86_64"]),
        40 => ("arm", &["arm", "aarch64"]),
        62 => ("x86_64", &["x86_64"]),
        183 => ("aarch64", &["aarch64"]),
        22 => ("s390x", &["s390x"]),
        21 => ("powerpc64", &["powerpc64"]),
        243 => ("riscv64", &["riscv64"]),
        258 => ("loongarch64", &["loongarch64"]),
        8 => ("mips", &["mips", "mips64"]),
        _ => ("another architecture", &[]),
    };
    (!runs_on.contains(&std::env::consts::ARCH)).then_some(name)
}

/// How OCI spells this machine's architecture.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}
