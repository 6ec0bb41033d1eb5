//! Commands beside a worker's program (`herd exec`): further children of the process whose child the program is. What
//! bounds and confines that one has them, too, for no other reason than that they are born in the same place.
//!
//! ```text
//! herd                            keeper, or a sandbox's init
//! Exec{command} + [line] ───────▶ makes pipes, or a terminal of its own devpts
//!      Runs + [herd's ends] ◀──── forks
//!                                 child: NotRun, if it cannot become the command
//! reads, writes
//!    Exited, or Signalled ◀────── reaps
//! ```
//!
//! The line is the command's life: herd, or whoever it does this for, goes away, the kernel closes the line, and the
//! command ends. What has a terminal is hung up by the kernel, because herd's end of that is closed as well; anything
//! else is killed with its process group. Where herd only ceases to speak on the line (a shutdown of its sending side), any
//! command is killed, and its death is told as every end is. A command that has ended leaves its background processes to the worker's
//! tree, as a shell does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::poll::PollFlags;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{ForkResult, Pid, pipe2};

use crate::sys::fork::exit_now;
use crate::sys::terminal;

use super::exec::{self, Company, Standard};
use super::keeper::Guarding;
use super::wire::{self, Command, On, Program, Word};

/// Most commands at a time, for one worker.
pub const MOST: usize = 32;

/// Longest explanation of why something does not run, bytes.
const MOST_SAID: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Commands(Vec<Running>);

#[derive(Debug)]
struct Running {
    /// Not reaped yet, so the number is its own, and its process group's.
    pid: Pid,
    line: OwnedFd,
    on: On,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    /// It was killed; its reaping is waited for at the other end.
    Killed,
}

/// What has become of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nobody is there any more.
    HungUp,
    /// The command shall end, and somebody waits until it has.
    Silent,
}

impl Commands {
    /// All lines, and what to look out for on them: it is to be told to [`Commands::left`]. Nothing is ever said there but
    /// that nothing more will be; a hang-up is always told.
    pub(super) fn lines(&self) -> impl Iterator<Item = (Pid, BorrowedFd<'_>, PollFlags)> {
        self.0.iter().map(|running| {
            let events = match running.fate {
                Fate::Open => PollFlags::POLLIN,
                Fate::Killed => PollFlags::empty(),
            };
            (running.pid, running.line.as_fd(), events)
        })
    }

    /// `program` is what the command runs beside, and has its environment from.
    pub(super) fn start(&mut self, command: Command, line: OwnedFd, program: &Program, guarding: Guarding) {
        let on = command.on;
        match self.try_start(command, &line, program, guarding) {
            Ok(pid) => self.0.push(Running {
                pid,
                line,
                on,
                fate: Fate::Open,
            }),
            Err(word) => say(&line, &word),
        }
    }

    fn try_start(
        &self,
        command: Command,
        line: &OwnedFd,
        program: &Program,
        guarding: Guarding,
    ) -> Result<Pid, Word> {
        if self.0.len() >= MOST {
            return Err(Word::Busy { most: MOST });
        }
        let refused = |what: &str, e: io::Error| Word::Refused {
            message: format!("cannot {what} for the command: {e}"),
        };
        let (standard, ours) = standard(command.on, guarding).map_err(|e| refused(making(command.on), e))?;
        let ends: Vec<_> = ours.iter().map(AsFd::as_fd).collect();
        // Before the child can say anything. If nobody hears it, nobody waits for the command any more: the worker may
        // even serve another session by now.
        wire::send(line.as_fd(), &Word::Runs, &ends).map_err(|e| refused("tell of its beginning", e))?;
        // They are herd's alone from here on: their end is to be seen.
        drop(ours);
        let program = beside(program, command);
        let company = match guarding {
            Guarding::Sandbox => Company::Worker,
            Guarding::Namespace | Guarding::Group => Company::None,
        };
        let keeper = Pid::this();
        // SAFETY: keepers and inits never make a thread, so the child may allocate until it executes the command.
        match unsafe { nix::unistd::fork() } {
            Ok(ForkResult::Parent { child }) => Ok(child),
            Ok(ForkResult::Child) => {
                let not_run = exec::run(&program, &standard, keeper, guarding, company);
                let code = not_run.code;
                say(
                    line,
                    &Word::NotRun {
                        message: shortened(not_run.message),
                        code,
                    },
                );
                exit_now(i32::from(code))
            }
            Err(e) => Err(Word::NotRun {
                message: format!("the kernel refuses another process: {}", e.desc()),
                code: 126,
            }),
        }
    }

    /// A child was reaped. Whose it is, and that it ended, is herd's to know before anything else.
    pub(super) fn ended(&mut self, pid: Pid, word: &Word) {
        if let Some(at) = self.0.iter().position(|running| running.pid == pid) {
            say(&self.0.swap_remove(at).line, word);
        }
    }

    /// To be told before any child is reaped.
    pub(super) fn left(&mut self, pid: Pid, left: Left) {
        let Some(at) = self.0.iter().position(|running| running.pid == pid) else {
            return;
        };
        match (left, self.0[at].on) {
            // The kernel hangs it up (SIGHUP): what ignores that was meant to stay.
            (Left::HungUp, On::Terminal(_)) => {}
            (Left::HungUp, On::Outputs | On::Pipes) | (Left::Silent, _) => {
                // It may not have made its process group yet.
                let _ = kill(pid, Signal::SIGKILL);
                let _ = killpg(pid, Signal::SIGKILL);
            }
        }
        match left {
            Left::HungUp => drop(self.0.swap_remove(at)),
            Left::Silent => self.0[at].fate = Fate::Killed,
        }
    }
}

/// herd may be gone; then so is what this was to tell it of.
fn say(line: &OwnedFd, word: &Word) {
    let _ = wire::send(line.as_fd(), word, &[]);
}

/// The command's ends, and herd's.
fn standard(on: On, guarding: Guarding) -> io::Result<(Standard, Vec<OwnedFd>)> {
    if let On::Terminal(size) = on {
        let multiplexer = match guarding {
            // Of the sandbox's own devpts. The link at /dev/ptmx could have been replaced, this is a mount.
            Guarding::Sandbox => "/dev/pts/ptmx",
            Guarding::Namespace | Guarding::Group => "/dev/ptmx",
        };
        let (driver, program) = terminal::open(Path::new(multiplexer), size)?;
        return Ok((Standard::Terminal(program), vec![driver]));
    }
    let (out, stdout) = pipe2(OFlag::O_CLOEXEC)?;
    let (err, stderr) = pipe2(OFlag::O_CLOEXEC)?;
    let mut ours = vec![out, err];
    let stdin = match on {
        On::Pipes => {
            let (stdin, input) = pipe2(OFlag::O_CLOEXEC)?;
            ours.push(input);
            Some(stdin)
        }
        On::Outputs | On::Terminal(_) => None,
    };
    let standard = Standard::Pipes {
        stdin,
        stdout,
        stderr,
    };
    Ok((standard, ours))
}

fn making(on: On) -> &'static str {
    match on {
        On::Outputs | On::Pipes => "make pipes",
        On::Terminal(_) => "make a terminal",
    }
}

fn beside(program: &Program, command: Command) -> Program {
    let mut env = command.env;
    let own = env.len();
    for variable in &program.env {
        if env[..own].iter().all(|(name, _)| *name != variable.0) {
            env.push(variable.clone());
        }
    }
    Program {
        argv: command.argv,
        env,
        cwd: command.cwd.or_else(|| program.cwd.clone()),
    }
}

fn shortened(mut message: String) -> String {
    if message.len() > MOST_SAID {
        let end = (0..=MOST_SAID).rev().find(|at| message.is_char_boundary(*at));
        message.truncate(end.unwrap_or(0));
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn a_command_has_the_programs_environment_and_place_but_for_what_it_names() {
        let program = Program {
            argv: vec!["server".to_owned()],
            env: vec![pair("PATH", "/bin"), pair("PORT", "8080")],
            cwd: Some("/home/worker".to_owned()),
        };
        let command = |env, cwd| Command {
            argv: vec!["ls".to_owned()],
            env,
            cwd,
            on: On::Outputs,
        };
        let run = beside(&program, command(Vec::new(), None));
        assert_eq!(
            (run.argv, run.env, run.cwd),
            (vec!["ls".to_owned()], program.env.clone(), program.cwd.clone())
        );
        let env = vec![pair("PORT", "1"), pair("A", "b")];
        let run = beside(&program, command(env, Some("/tmp".to_owned())));
        assert_eq!(run.env, [pair("PORT", "1"), pair("A", "b"), pair("PATH", "/bin")]);
        assert_eq!(run.cwd.as_deref(), Some("/tmp"));
    }

    #[test]
    fn what_is_said_is_bounded() {
        assert_eq!(shortened("short".to_owned()), "short");
        let long = shortened("ä".repeat(MOST_SAID));
        assert!(
            long.len() <= MOST_SAID + "…".len() && long.ends_with('…'),
            "{}",
            long.len()
        );
    }
}
