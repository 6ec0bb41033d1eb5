//! The keeper: owns one worker's tree from birth to reaping.
//!
//! With namespaces it is itself PID 1 of the worker's namespace, so its end, however it comes, is the end of
//! everything in it: one process fewer than a keeper outside with an init inside. Without, it is a sub-reaper
//! that kills what it can see.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use crate::sys::fd;
use crate::sys::fork::exit_now;
use crate::sys::lifeline::Lifeline;
use crate::sys::process::{self, Census, Ending};

use super::commands::{Commands, Left};
use super::exec::{self, Company, Standard};
use super::parked::{self, Parking};
use super::run::KILL_TREE;
use super::wire::{self, Ask, Program, Report, Word};

/// What the keeper has to hold its tree together with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guarding {
    Namespace,
    Group,
    /// The same work done by the first process of a sandbox, which its keeper outside holds.
    Sandbox,
}

/// Why a keeper looks up.
struct Woken {
    signalled: bool,
    asked: bool,
    /// Commands that shall be no more.
    left: Vec<(Pid, Left)>,
}

/// What launcher and keepers block, and read from a signalfd when they want to know.
pub(super) fn signals() -> SigSet {
    [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        // It asks herd's main process for a new access log, and `pkill` cannot tell them apart.
        Signal::SIGUSR1,
        KILL_TREE,
    ]
    .into_iter()
    .collect()
}

/// Runs in the freshly forked process; its result is the exit status.
pub(super) fn run(
    program: &Program,
    pipes: [OwnedFd; 3],
    parking: Option<Parking>,
    parent: &Lifeline,
    guarding: Guarding,
) -> i32 {
    let [stdout, stderr, status] = pipes;
    let mut keep = vec![
        stdout.as_raw_fd(),
        stderr.as_raw_fd(),
        status.as_raw_fd(),
        parent.as_raw_fd(),
    ];
    keep.extend(parking.as_ref().map(|parking| parking.as_fd().as_raw_fd()));
    if fd::close_all_except(&keep).is_err() {
        return 1;
    }
    let mut keeper = Keeper::new(status, guarding);
    keeper.guard(parent);
    let Ok(signals) = SignalFd::with_flags(&signals(), SfdFlags::SFD_CLOEXEC) else {
        keeper.failed("the keeper cannot watch its signals".to_owned());
        return 1;
    };
    keeper.start(program, stdout, stderr);
    // Not before: the program does not wait for it.
    if let Some(parking) = parking.as_ref().filter(|_| guarding == Guarding::Namespace) {
        parked::park(parking.as_fd());
    }
    keeper.watch(&signals, parking.map(OwnedFd::from), program);
    if guarding == Guarding::Group {
        keeper.kill_all();
    }
    0
}

pub(super) struct Keeper {
    status: std::fs::File,
    guarding: Guarding,
    /// The worker's main process, until it is reaped; also its process group.
    worker: Option<Pid>,
    commands: Commands,
}

impl Keeper {
    pub(super) fn new(status: OwnedFd, guarding: Guarding) -> Self {
        Self {
            status: status.into(),
            guarding,
            worker: None,
            commands: Commands::default(),
        }
    }

    pub(super) fn guard(&mut self, parent: &Lifeline) {
        let _ = prctl::set_name(c"herd-keeper");
        // A worker of the same uid must not be able to ptrace the process that bounds it.
        let _ = prctl::set_dumpable(false);
        let deathsig = match self.guarding {
            Guarding::Namespace | Guarding::Sandbox => Signal::SIGKILL,
            Guarding::Group => KILL_TREE,
        };
        // After arming, not before: a launcher that died in between is seen here.
        if prctl::set_pdeathsig(deathsig).is_err() || parent.is_cut() {
            exit_now(1);
        }
        match self.guarding {
            Guarding::Group => {
                if let Err(e) = prctl::set_child_subreaper(true) {
                    self.note(format!("the keeper cannot adopt orphans: {e}"));
                }
            }
            Guarding::Namespace | Guarding::Sandbox => {
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
                if let Err(e) = mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>) {
                    // Refused inside containers that mask parts of /proc. The worker then sees the host's
                    // processes, as it would without herd; its lifetime does not depend on it.
                    self.note(format!("the worker keeps the host's /proc: {e}"));
                }
            }
        }
    }

    pub(super) fn start(&mut self, program: &Program, stdout: OwnedFd, stderr: OwnedFd) {
        let (read, write) = match nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC) {
            Ok(pipe) => pipe,
            Err(e) => return self.failed(format!("cannot make a pipe: {e}")),
        };
        let keeper = Pid::this();
        let standard = Standard::Pipes {
            stdin: None,
            stdout,
            stderr,
        };
        // SAFETY: the keeper never makes a thread, so the child may allocate until it executes the program.
        match unsafe { nix::unistd::fork() } {
            Ok(ForkResult::Child) => {
                let not_run = exec::run(program, &standard, keeper, self.guarding, Company::None);
                let _ = std::fs::File::from(write).write_all(not_run.message.as_bytes());
                exit_now(i32::from(not_run.code))
            }
            Ok(ForkResult::Parent { child }) => {
                self.worker = Some(child);
                drop((write, standard));
                // The end of file means that the program runs, in its own process group: only now can a
                // SIGTERM be passed on.
                match std::io::read_to_string(std::fs::File::from(read)) {
                    Ok(failure) if failure.is_empty() => {}
                    Ok(message) => self.failed(message),
                    Err(e) => self.note(format!("cannot hear whether the program runs: {e}")),
                }
            }
            Err(e) => self.failed(format!("the kernel refuses another process: {e}")),
        }
    }

    /// Until the worker's main process ended or the tree has to go. Commands beside `program` are asked for by
    /// `control`.
    pub(super) fn watch(&mut self, signals: &SignalFd, mut control: Option<OwnedFd>, program: &Program) {
        let mut buffer = Vec::new();
        // Its end may have come before the signalfd was read.
        self.reap();
        while self.worker.is_some() {
            let Ok(Woken {
                signalled,
                asked,
                left,
            }) = self.wait(signals, control.as_ref())
            else {
                return;
            };
            // First: none of them has been reaped, so none of the numbers has been given to another.
            for (pid, left) in left {
                self.commands.left(pid, left);
            }
            if signalled {
                match signals.read_signal() {
                    Ok(Some(info)) => match Signal::try_from(info.ssi_signo as i32) {
                        Ok(Signal::SIGTERM) => self.signal_group(Signal::SIGTERM),
                        Ok(KILL_TREE) if self.guarding == Guarding::Group => return,
                        _ => {}
                    },
                    Ok(None) | Err(Errno::EINTR) => {}
                    Err(_) => return,
                }
            }
            if asked && let Some(socket) = &control {
                match wire::receive(socket.as_fd(), &mut buffer) {
                    Ok(Some((Ask::Exec { command }, fds))) => {
                        if let Some(line) = fds.into_iter().next() {
                            self.commands.start(command, line, program, self.guarding);
                        }
                    }
                    // A question for another sort of keeper: whoever waits for the answer sees its socket close.
                    Ok(Some(_)) => {}
                    // Whoever asks is gone; this process is ended by others.
                    Ok(None) | Err(_) => control = None,
                }
                // A message is as large as a command line can be, and the next may never come.
                buffer = Vec::new();
            }
            self.reap();
        }
    }

    fn wait(&self, signals: &SignalFd, control: Option<&OwnedFd>) -> nix::Result<Woken> {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(control.map(|control| PollFd::new(control.as_fd(), PollFlags::POLLIN)));
        let before = fds.len();
        fds.extend(
            self.commands
                .lines()
                .map(|(_, line, events)| PollFd::new(line, events)),
        );
        fd::retry(|| poll(&mut fds, PollTimeout::NONE))?;
        let any = |fd: &PollFd<'_>| fd.any() == Some(true);
        let lines = self.commands.lines().map(|(pid, ..)| pid);
        let left = |fd: &PollFd<'_>| match fd.revents()? {
            told if told.is_empty() => None,
            told if told == PollFlags::POLLIN => Some(Left::Silent),
            _ => Some(Left::HungUp),
        };
        Ok(Woken {
            signalled: any(&fds[0]),
            asked: control.is_some() && any(&fds[1]),
            left: lines
                .zip(&fds[before..])
                .filter_map(|(pid, fd)| Some((pid, left(fd)?)))
                .collect(),
        })
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, ending))) = process::reap() {
            if Some(pid) != self.worker {
                let word = match ending {
                    Ending::Exited(code) => Word::Exited { code },
                    Ending::Signalled(signal) => Word::Signalled { signal },
                };
                self.commands.ended(pid, &word);
                continue;
            }
            self.worker = None;
            self.report(&match ending {
                Ending::Exited(code) => Report::Exited { code },
                Ending::Signalled(signal) => Report::Signalled { signal },
            });
            self.count();
        }
    }

    /// What dies with this process, as far as its `/proc` shows it.
    fn count(&mut self) {
        let own = process::id_in_proc();
        if own != Some(Pid::this().as_raw()) {
            // The host's, where this process has another number.
            return;
        }
        let left = Census::below(Pid::this().as_raw());
        self.report(&Report::Left {
            processes: left.processes,
            memory: left.memory,
        });
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(worker) = self.worker {
            // Not reaped yet, so neither the process nor its group can be another's.
            let _ = killpg(worker, signal);
        }
    }

    /// Kills the process group, then every descendant: each death hands its children to this sub-reaper.
    fn kill_all(&mut self) {
        self.signal_group(Signal::SIGKILL);
        loop {
            for pid in process::children(Pid::this().as_raw()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            match waitpid(None, None) {
                Ok(WaitStatus::Exited(pid, code)) if Some(pid) == self.worker => {
                    self.report(&Report::Exited { code });
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if Some(pid) == self.worker => {
                    self.report(&Report::Signalled {
                        signal: signal as i32,
                    });
                }
                // The last: a real-time signal, by which somebody has ended before.
                Ok(_) | Err(Errno::EINTR | Errno::EINVAL) => {}
                Err(_) => return,
            }
        }
    }

    fn note(&mut self, message: String) {
        self.report(&Report::Note { message });
    }

    /// The program does not run, and why.
    pub(super) fn failed(&mut self, message: String) {
        self.report(&Report::ExecFailed { message });
    }

    pub(super) fn report(&mut self, report: &Report) {
        if let Ok(mut line) = serde_json::to_vec(report) {
            line.push(b'\n');
            // Without a reader there is nobody left to tell.
            let _ = self.status.write_all(&line);
        }
    }
}
