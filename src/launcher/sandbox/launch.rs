//! From a keeper to the first process of a sandbox: one fork, and libcontainer's part begins in it.
//!
//! ```text
//! keeper                                   init
//! clone3(user, PID namespace) ───────────▶ waits
//! maps the ids ──────────────────────────▶ becomes root in there, hides from its neighbours
//! builds the files, leaves the host's
//! says go ───────────────────────────────▶ libcontainer: the other namespaces, /proc, /dev, masks, pivot_root
//!                                          the executor locks it up
//! hears that it is ready ◀──────────────── waits for the program
//! ```
//!
//! libcontainer would do this with a process in between that joins the user namespace by its path, unshares the PID
//! namespace and looks through the mounts for a dozen control groups. Made in one call, the PID namespace belongs to
//! the user namespace as it does there, which /proc asks for; and its maps are the keeper's to write, for which
//! libcontainer would need a setuid program.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcgroups::common::CgroupConfig;
use libcontainer::notify_socket::NotifyListener;
use libcontainer::process::args::{ContainerArgs, ContainerType};
use libcontainer::process::channel::{self, InitReceiver, MainReceiver, MainSender};
use libcontainer::process::init::container_init_process;
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::unistd::{Gid, Pid, Uid, chdir, pipe2, setresgid, setresuid};
use oci_spec::runtime::Spec;

use crate::causes;
use crate::sys::fork::{Namespaces, Side, clone3, exit_now};
use crate::sys::{fd, user_namespace};

use super::files;
use super::identity::Identity;
use super::init::Init;

/// A sandbox's init that waits for its files.
pub(super) struct Launch {
    pid: Pid,
    user_namespace: OwnedFd,
    go: OwnedFd,
    ready: MainReceiver,
}

impl Launch {
    /// Single-threaded process; `listener` is from [`started_already`].
    pub(super) fn begin(
        spec: Spec,
        init: Init,
        identity: &Identity,
        listener: NotifyListener,
    ) -> Result<Self, String> {
        let failed = |e: &dyn std::error::Error| format!("cannot launch the sandbox: {}", causes::told(e));
        let errors = init.stderr;
        let args = args(spec, init, listener);
        let (mut tell, ready) = channel::main_channel().map_err(|e| failed(&e))?;
        let (hooks, mut unused) = channel::init_channel().map_err(|e| failed(&e))?;
        let (dumpable, there) = pipe2(OFlag::O_CLOEXEC).map_err(|e| failed(&e))?;
        let (told, go) = pipe2(OFlag::O_CLOEXEC).map_err(|e| failed(&e))?;
        // SAFETY: keepers have one thread.
        let pid = match unsafe { clone3(Namespaces::USER_PID) }.map_err(|e| failed(&e))? {
            Side::Child => {
                drop((dumpable, go));
                exit_now(first_process(&args, errors, there, &told, &mut tell, &mut unused))
            }
            Side::Parent { pid, .. } => pid,
        };
        drop((there, told));
        // Only init's copies are left, so that its end is the end of what it says.
        tell.close()
            .and_then(|()| hooks.close())
            .and_then(|()| unused.close())
            .map_err(|e| failed(&e))?;
        let _ = fd::retry(|| nix::unistd::read(&dumpable, &mut [0; 1]));
        let user_namespace = user_namespace::map(pid, &identity.uids, &identity.gids)
            .map_err(|e| format!("cannot make a user namespace: {e}"))?;
        let launch = Self {
            pid: Pid::from_raw(pid),
            user_namespace,
            go,
            ready,
        };
        launch.say()?;
        Ok(launch)
    }

    pub(super) fn user_namespace(&self) -> BorrowedFd<'_> {
        self.user_namespace.as_fd()
    }

    /// Has it go on, and waits until it is locked up.
    pub(super) fn finish(mut self) -> Result<Pid, String> {
        self.say()?;
        let result = self.ready.wait_for_init_ready();
        let _ = self.ready.close();
        result.map_err(|e| format!("cannot launch the sandbox: {}", causes::told(&e)))?;
        Ok(self.pid)
    }

    fn say(&self) -> Result<(), String> {
        match nix::unistd::write(&self.go, b"+") {
            Ok(_) => Ok(()),
            Err(e) => Err(format!("cannot launch the sandbox: {}", e.desc())),
        }
    }
}

/// Returns only if it fails.
fn first_process(
    args: &ContainerArgs,
    errors: i32,
    there: OwnedFd,
    told: &OwnedFd,
    tell: &mut MainSender,
    unused: &mut InitReceiver,
) -> i32 {
    let wait = || fd::retry(|| nix::unistd::read(told, &mut [0; 1])) == Ok(1);
    // The maps of a process that is not dumpable, as its parent is, belong to the host's root.
    let _ = prctl::set_dumpable(true);
    drop(there);
    if !wait() {
        return 1;
    }
    let _ = prctl::set_dumpable(false);
    let root = setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))
        .and_then(|()| setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)));
    if !wait() {
        return 1;
    }
    // Its root followed the keeper's into the room (pivot_root(2)).
    let result = root.and_then(|()| chdir("/")).map_err(|e| e.desc().to_owned());
    let result = result.and_then(|()| {
        // libcontainer's log tells more of a failure than its error does, and belongs to the worker's output.
        let log = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::ERROR)
            .with_ansi(false)
            .without_time()
            .with_writer(move || Raw(errors))
            .finish();
        tracing::subscriber::with_default(log, || container_init_process(args, tell, unused))
            .map_err(|e| causes::told(&e))
    });
    if let Err(message) = result {
        let _ = tell.exec_failed(message);
    }
    1
}

/// libcontainer's own, without its detours over files: nobody else is to find this container.
fn args(spec: Spec, init: Init, notify_listener: NotifyListener) -> ContainerArgs {
    ContainerArgs {
        container_type: ContainerType::InitContainer,
        syscall: SyscallType::Linux,
        spec: Rc::new(spec),
        rootfs: PathBuf::from(files::ROOT),
        console_socket: None,
        notify_listener,
        preserve_fds: 0,
        container: None,
        // It is made already.
        user_ns_config: None,
        // Nobody asks for it: the keeper's groups are joined by the executor.
        cgroup_config: CgroupConfig {
            cgroup_path: PathBuf::from("none"),
            systemd_cgroup: false,
            container_name: "sandbox".to_owned(),
        },
        detached: true,
        executor: Box::new(init),
        no_pivot: false,
        stdin: None,
        stdout: None,
        stderr: None,
        as_sibling: false,
        pid_file: None,
    }
}

/// libcontainer's init waits on a socket for its start; this one has been told already, because the executor does the
/// waiting. Leaves `/` as the working directory, and nothing in `room`.
pub(super) fn started_already(room: BorrowedFd<'_>) -> Result<NotifyListener, String> {
    let made = || -> Result<_, Box<dyn std::error::Error>> {
        // It enters the directory of the socket, and then goes back by name.
        chdir("/")?;
        let path = format!("/proc/self/fd/{}/start", room.as_raw_fd());
        let listener = NotifyListener::new(Path::new(&path))?;
        // What it sends does not matter, and its end is what counts.
        drop(std::os::unix::net::UnixStream::connect(&path)?);
        std::fs::remove_file(&path)?;
        Ok(listener)
    };
    made().map_err(|e| format!("cannot make the start signal: {e}"))
}

/// A descriptor by number, which others own.
struct Raw(i32);

impl io::Write for Raw {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // SAFETY: the number stays an open descriptor for as long as the sandbox is being made.
        let fd = unsafe { BorrowedFd::borrow_raw(self.0) };
        Ok(nix::unistd::write(fd, buf)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
