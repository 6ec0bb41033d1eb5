//! The files of a sandbox. All of it stands in one size-limited tmpfs in the keeper's own mount namespace, so
//! nothing is left when the keeper ends, however it ends:
//!
//! ```text
//! /              the tmpfs; the keeper's own root, too, once the host is out of its sight
//! /root          what the worker sees as /
//!                  rootfs: host   usr, bin, lib… and a choice of etc, read-only; everything else empty
//!                  bundle         an overlay: the bundle below, /upper above
//! /upper /work   of the overlay
//! /lower         the bundle, its owners shown as the sandbox's (only as root)
//! /shm           the worker's /dev/shm
//! /proc /dev     of the keeper, for libcontainer
//! ```

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat, umask};
use nix::unistd::{chdir, fchownat, pivot_root};

use crate::sys::mounts::{self, Attributes, Tree, mount_point, open_in};
use crate::sys::user_namespace::{self, MapLine};

use super::identity::{Identity, Owner};
use super::plan::{Plan, PlannedMount, PlannedRoot};

/// As the keeper sees them.
pub(super) const ROOT: &str = "/root";
pub(super) const SHM: &str = "/shm";
/// As the worker sees them.
pub const HOME: &str = "/home/worker";
pub const SOCKET_DIR: &str = "/run/herd";
pub const OWN_BINARY: &str = "/.herd";
/// Name of the socket in [`SOCKET_DIR`].
pub const SOCKET: &str = "s";

const READ_ONLY: Attributes = Attributes::READ_ONLY
    .and(Attributes::NO_SETUID)
    .and(Attributes::NO_DEVICES);
const WRITABLE: Attributes = Attributes::NO_SETUID.and(Attributes::NO_DEVICES);

/// What of the host a sandbox with `rootfs: host` sees, where it exists. Everything else is not there: no /home,
/// /root, /var, /srv, /mnt, /run.
pub const SYSTEM: [&str; 9] = ["bin", "gnu", "lib", "lib32", "lib64", "nix", "opt", "sbin", "usr"];

/// Of /etc only what programs need to run, and nothing that tells of this host's services or users.
const ETC: [&str; 39] = [
    "ImageMagick-6",
    "ImageMagick-7",
    "OpenCL",
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "chromium",
    "chromium.d",
    "crypto-policies",
    "debian_version",
    "ethertypes",
    "fonts",
    "gai.conf",
    "inputrc",
    "java",
    "jvm",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "magic",
    "mailcap",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "perl",
    "pki",
    "profile",
    "protocols",
    "python3",
    "rpc",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
];

/// Tells how many processors there are.
const SYSTEM_DEVICES: &str = "/sys/devices/system";

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "tty", "urandom"];

/// Mounts it over `at`, any directory. Known from here on by what was mounted, not by its name: who removes the
/// directory takes the mount away from it, and the name would then lead to the host's files.
pub(super) fn mount_room(plan: &Plan, at: &Path) -> Result<OwnedFd, String> {
    let options = format!("mode=0755,size={},nr_inodes={}", plan.tmpfs, plan.inodes);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("herd"), at, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(|e| format!("cannot make the sandbox's writable layer: {}", e.desc()))?;
    open_in_host(at).map_err(|e| format!("cannot enter the sandbox's writable layer: {e}"))
}

/// Fills the room, which is the working directory, and makes it the root of this process and of its children.
/// Single-threaded process, with its own mount namespace.
pub(super) fn build(plan: &Plan, identity: &Identity, user_namespace: BorrowedFd<'_>) -> Result<(), String> {
    // Whatever herd was started with; what the worker inherits is another process's.
    umask(Mode::from_bits_truncate(0o022));
    let build = Build {
        plan,
        identity,
        user_namespace,
        at: Path::new("."),
    };
    build.own_places().map_err(step("prepare the sandbox"))?;
    match &plan.root {
        PlannedRoot::Host => build.host_root(),
        PlannedRoot::Bundle { rootfs, .. } => build.bundle_root(rootfs),
    }?;
    let root = open_in_host(&build.at.join("root")).map_err(step("open the sandbox's root"))?;
    build.host_parts(root.as_fd())?;
    for mount in &plan.mounts {
        build.mount(root.as_fd(), mount)?;
    }
    drop(root);
    enter().map_err(step("leave the host's files"))
}

fn step(what: &'static str) -> impl Fn(io::Error) -> String {
    move |e| format!("cannot {what}: {e}")
}

fn open_in_host(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, Mode::empty())?)
}

/// The tmpfs, the working directory, becomes `/`, and the host's files are out of reach.
fn enter() -> io::Result<()> {
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}

struct Build<'a> {
    plan: &'a Plan,
    identity: &'a Identity,
    user_namespace: BorrowedFd<'a>,
    at: &'a Path,
}

impl Build<'_> {
    /// What keeper and libcontainer need for themselves.
    fn own_places(&self) -> io::Result<()> {
        for dir in ["root", "shm", "proc", "dev", "sys", "sys/fs", "sys/fs/cgroup"] {
            fs::create_dir(self.at.join(dir))?;
        }
        own(&self.at.join("root"), self.identity.root)?;
        open_to_all(&self.at.join("shm"))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(
            Some("proc"),
            &self.at.join("proc"),
            Some("proc"),
            flags,
            None::<&str>,
        )?;
        for name in DEVICES {
            let target = self.at.join("dev").join(name);
            fs::File::create(&target)?;
            let source = Path::new("/dev").join(name);
            mount(
                Some(&source),
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
        }
        Ok(())
    }

    fn host_root(&self) -> Result<(), String> {
        let root = self.at.join("root");
        let own = open_in_host(&root).map_err(step("open the sandbox's root"))?;
        // Before anything of the host is in it.
        self.common(own.as_fd(), own.as_fd())?;
        for name in SYSTEM {
            let source = Path::new("/").join(name);
            match fs::symlink_metadata(&source) {
                Ok(meta) if meta.is_symlink() => {
                    // A merged /usr; the link is as good inside as outside.
                    let target = fs::read_link(&source).map_err(step("read a link of the host"))?;
                    symlink(target, root.join(name)).map_err(step("make a link"))?;
                }
                Ok(meta) if meta.is_dir() => self.show(&source, &root.join(name))?,
                _ => {}
            }
        }
        for name in ETC {
            let source = Path::new("/etc").join(name);
            let target = root.join("etc").join(name);
            match fs::symlink_metadata(&source) {
                Ok(meta) if meta.is_symlink() && links_inside(&source) => {
                    let link = fs::read_link(&source).map_err(step("read a link of the host"))?;
                    self.parents(&target)?;
                    symlink(link, &target).map_err(step("make a link"))?;
                }
                Ok(_) => self.show(&source, &target)?,
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Shows a file or directory of the host, read-only.
    fn show(&self, source: &Path, target: &Path) -> Result<(), String> {
        let what = source.display().to_string();
        let failed = |e: io::Error| format!("cannot show {what} in the sandbox: {e}");
        // What the user that runs herd may not read, a worker need not see.
        let Ok(tree) = Tree::copy(source) else {
            return Ok(());
        };
        tree.restrict(READ_ONLY).map_err(failed)?;
        let meta = fs::metadata(source).map_err(failed)?;
        self.parents(target)?;
        if meta.is_dir() {
            self.directory(target, self.identity.root)?;
        } else {
            fs::File::create(target).map_err(failed)?;
        }
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let point = nix::fcntl::open(target, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        tree.attach(point.as_fd()).map_err(failed)
    }

    fn parents(&self, target: &Path) -> Result<(), String> {
        match target.parent() {
            Some(parent) if !parent.exists() => {
                self.parents(parent)?;
                self.directory(parent, self.identity.root)
            }
            _ => Ok(()),
        }
    }

    fn directory(&self, path: &Path, owner: Owner) -> Result<(), String> {
        fs::create_dir(path)
            .and_then(|()| own(path, owner))
            .map_err(|e| format!("cannot make {} for the sandbox: {e}", path.display()))
    }

    fn bundle_root(&self, rootfs: &Path) -> Result<(), String> {
        let (upper, work) = (self.at.join("upper"), self.at.join("work"));
        self.directory(&upper, self.identity.root)?;
        self.directory(&work, self.identity.root)?;
        let mode = fs::metadata(rootfs)
            .map_err(|e| format!("cannot read the bundle's root {}: {e}", rootfs.display()))?
            .permissions()
            .mode();
        // Other users' traversal is needed by the worker, who is never the owner of the root.
        fs::set_permissions(&upper, fs::Permissions::from_mode(mode & 0o777 | 0o555))
            .map_err(step("set the mode of the sandbox's root"))?;
        // Whoever the bundle belongs to: what is made in the upper layer needs no right over the lower one, and the
        // bundle's links are not in it.
        let bundle = open_in_host(rootfs).map_err(step("open the bundle's root"))?;
        let own = open_in_host(&upper).map_err(step("open the sandbox's root"))?;
        self.common(own.as_fd(), bundle.as_fd())?;
        let lower = match self.root_runs_herd() {
            true => self.mapped(rootfs)?,
            false => rootfs.to_owned(),
        };
        let mut options = format!(
            "lowerdir={},upperdir={},workdir={}",
            overlay_escape(&lower)?,
            overlay_escape(&upper)?,
            overlay_escape(&work)?
        );
        if !self.root_runs_herd() {
            options.push_str(",userxattr");
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let target = self.at.join("root");
        mount(Some("overlay"), &target, Some("overlay"), flags, Some(options.as_str())).map_err(|e| {
            format!(
                "cannot lay the writable layer over the bundle: {} (`herd doctor` tells whether this kernel can)",
                e.desc()
            )
        })
    }

    /// Nobody else has more than one id to give.
    fn root_runs_herd(&self) -> bool {
        self.identity.uids.iter().any(|line| line.count > 1)
    }

    /// The bundle's files with their owners as the sandbox numbers them; as they are where the file system
    /// cannot do that: then they belong to nobody inside, and only what all may read can be read.
    fn mapped(&self, rootfs: &Path) -> Result<PathBuf, String> {
        let tree = Tree::copy(rootfs).map_err(|e| format!("cannot open the bundle's root: {e}"))?;
        if tree.map_ids(self.user_namespace).is_err() {
            return Ok(rootfs.to_owned());
        }
        let lower = self.at.join("lower");
        self.directory(&lower, self.identity.root)?;
        let point = open_in_host(&lower).map_err(step("open a mount point"))?;
        tree.attach(point.as_fd())
            .map_err(step("attach the bundle's root"))?;
        Ok(lower)
    }

    /// What every sandbox has, whatever its root; `known` is where users and groups are looked up.
    fn common(&self, root: BorrowedFd<'_>, known: BorrowedFd<'_>) -> Result<(), String> {
        let failed =
            |path: &'static str| move |e: io::Error| format!("cannot make {path} in the sandbox: {e}");
        for path in ["/proc", "/dev", SYSTEM_DEVICES, "/etc", "/run", "/var"] {
            self.place(root, path).map_err(failed(path))?;
        }
        for path in ["/tmp", "/var/tmp"] {
            let place = self.place(root, path).map_err(failed(path))?;
            set_mode(&place, 0o1777).map_err(failed(path))?;
        }
        for path in [HOME, SOCKET_DIR] {
            let place = self.place(root, path).map_err(failed(path))?;
            set_mode(&place, 0o700).map_err(failed(path))?;
            set_owner(&place, self.identity.worker).map_err(failed(path))?;
        }
        if self.plan.own_binary.is_some() {
            mount_point(root, Path::new(OWN_BINARY), mounts::Kind::File).map_err(failed(OWN_BINARY))?;
        }
        self.etc(root, known).map_err(failed("/etc"))
    }

    /// What of the host every sandbox sees.
    fn host_parts(&self, root: BorrowedFd<'_>) -> Result<(), String> {
        let failed =
            |path: &'static str| move |e: io::Error| format!("cannot make {path} in the sandbox: {e}");
        // How many processors there are; glibc and language runtimes ask.
        let system = Path::new(SYSTEM_DEVICES);
        if let Ok(tree) = Tree::copy(system) {
            let all = READ_ONLY.and(Attributes::NO_EXEC);
            tree.restrict(all).map_err(step("restrict /sys"))?;
            let point = mount_point(root, system, mounts::Kind::Directory).map_err(failed("/sys"))?;
            tree.attach(point.as_fd()).map_err(failed("/sys"))?;
        }
        if let Some(binary) = &self.plan.own_binary {
            let tree = Tree::copy(binary).map_err(step("show herd's own binary"))?;
            tree.restrict(READ_ONLY).map_err(step("show herd's own binary"))?;
            let point =
                mount_point(root, Path::new(OWN_BINARY), mounts::Kind::File).map_err(failed(OWN_BINARY))?;
            tree.attach(point.as_fd()).map_err(failed(OWN_BINARY))?;
        }
        Ok(())
    }

    /// A directory of the sandbox, made and given to its root where it does not exist.
    fn place(&self, root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
        let path = Path::new(path);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match open_in(root, path, flags, Mode::empty()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let made = |parent: BorrowedFd<'_>| -> io::Result<()> {
            let name = path.file_name().unwrap_or_default();
            Ok(mkdirat(parent, name, Mode::from_bits_truncate(0o755))?)
        };
        match path
            .parent()
            .and_then(Path::to_str)
            .filter(|parent| *parent != "/")
        {
            Some(parent) => made(self.place(root, parent)?.as_fd()),
            None => made(root),
        }?;
        let place = open_in(root, path, flags, Mode::empty())?;
        set_owner(&place, self.identity.root)?;
        Ok(place)
    }

    /// Who is who and where; the host's own answers would be wrong or tell too much.
    fn etc(&self, root: BorrowedFd<'_>, known: BorrowedFd<'_>) -> io::Result<()> {
        let user = self.plan.user;
        let read = |path: &str| -> io::Result<String> {
            // A pipe in a bundle would have this process wait for its other end.
            let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
            let file = fs::File::from(open_in(known, Path::new(path), flags, Mode::empty())?);
            if !file.metadata()?.is_file() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            io::read_to_string(io::Read::take(file, 1 << 20))
        };
        let has_user = |table: &str| {
            table
                .lines()
                .any(|line| line.split(':').nth(2) == Some(user.to_string().as_str()))
        };
        let mut passwd = read("/etc/passwd").unwrap_or_else(|_| {
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n".to_owned()
        });
        if !has_user(&passwd) {
            end_line(&mut passwd);
            passwd.push_str(&format!("worker:x:{user}:{user}:worker:{HOME}:/bin/sh\n"));
        }
        let mut group = read("/etc/group").unwrap_or_else(|_| "root:x:0:\nnogroup:x:65534:\n".to_owned());
        if !has_user(&group) {
            end_line(&mut group);
            group.push_str(&format!("worker:x:{user}:\n"));
        }
        let resolv = match self.plan.network {
            crate::config::SandboxNetwork::Host => fs::read("/etc/resolv.conf").unwrap_or_default(),
            crate::config::SandboxNetwork::None => Vec::new(),
        };
        let hosts = format!("127.0.0.1 localhost {HOSTNAME}\n::1 localhost {HOSTNAME}\n");
        let files: [(&str, &[u8]); 5] = [
            ("/etc/passwd", passwd.as_bytes()),
            ("/etc/group", group.as_bytes()),
            ("/etc/hosts", hosts.as_bytes()),
            ("/etc/hostname", HOSTNAME_LINE.as_bytes()),
            ("/etc/resolv.conf", &resolv),
        ];
        for (path, content) in files {
            self.write(root, path, content)?;
        }
        Ok(())
    }

    /// Replaces a file whatever it was: a link in a bundle must not lead the write elsewhere.
    fn write(&self, root: BorrowedFd<'_>, path: &str, content: &[u8]) -> io::Result<()> {
        let path = Path::new(path);
        let parent = path.parent().unwrap_or(Path::new("/"));
        let directory = open_in(root, parent, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
        let name = path.file_name().unwrap_or_default();
        match nix::unistd::unlinkat(&directory, name, nix::unistd::UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = open_in(
            directory.as_fd(),
            Path::new(name),
            flags,
            Mode::from_bits_truncate(0o644),
        )?;
        nix::unistd::fchown(
            &file,
            Some(self.identity.root.uid.into()),
            Some(self.identity.root.gid.into()),
        )?;
        fs::File::from(file).write_all(content)
    }

    fn mount(&self, root: BorrowedFd<'_>, mount: &PlannedMount) -> Result<(), String> {
        let (source, target) = (mount.source.display(), mount.target.display());
        let failed = |e: io::Error| format!("cannot mount {source} at {target} in the sandbox: {e}");
        let tree = Tree::copy(&mount.source).map_err(failed)?;
        let attributes = if mount.writable { WRITABLE } else { READ_ONLY };
        tree.restrict(attributes).map_err(failed)?;
        if self.root_runs_herd() && mount.writable {
            // What the worker writes belongs to whoever owns the source, on the host.
            let (uid, gid) = mount.owner;
            let line = |inside, outside| {
                [MapLine {
                    inside,
                    outside,
                    count: 1,
                }]
            };
            // SAFETY: keepers have one thread.
            let namespace = unsafe {
                user_namespace::with_maps(
                    &line(uid, self.identity.worker.uid),
                    &line(gid, self.identity.worker.gid),
                )
            }
            .map_err(failed)?;
            tree.map_ids(namespace.as_fd()).map_err(|e| {
                format!(
                    "cannot make {source} writable for the sandbox: its file system does not support idmapped mounts \
                     ({e}); write mode: ro"
                )
            })?;
        }
        let point = mount_point(root, &mount.target, mount.kind).map_err(failed)?;
        tree.attach(point.as_fd()).map_err(failed)
    }
}

pub(super) const HOSTNAME: &str = "sandbox";
const HOSTNAME_LINE: &str = "sandbox\n";

fn end_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

/// Whether a link of /etc leads to what the sandbox has, too.
fn links_inside(link: &Path) -> bool {
    fs::canonicalize(link).is_ok_and(|target| {
        SYSTEM
            .iter()
            .any(|name| target.starts_with(Path::new("/").join(name)))
    })
}

fn own(path: &Path, owner: Owner) -> io::Result<()> {
    chown(path, Some(owner.uid), Some(owner.gid))
}

fn open_to_all(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o1777))
}

/// By a descriptor that was opened only as a place.
fn by_descriptor(place: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

fn set_mode(place: &OwnedFd, mode: u32) -> io::Result<()> {
    fs::set_permissions(by_descriptor(place), fs::Permissions::from_mode(mode))
}

fn set_owner(place: &OwnedFd, owner: Owner) -> io::Result<()> {
    let (uid, gid) = (Some(owner.uid.into()), Some(owner.gid.into()));
    Ok(fchownat(place, "", uid, gid, AtFlags::AT_EMPTY_PATH)?)
}

/// The option string of overlayfs separates by `,` and `:` and knows one escape (mount(8)).
fn overlay_escape(path: &Path) -> Result<String, String> {
    let text = path
        .to_str()
        .ok_or_else(|| format!("{} is not UTF-8, and overlayfs could not name it", path.display()))?;
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        if matches!(char, '\\' | ':' | ',') {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    Ok(escaped)
}
