//! A user at a terminal: the test has the driving end of a real one, `herd exec` the other as its controlling terminal.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};

use herd::sys::terminal::{self, Size};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::SpecialCharacterIndices::{
    VEOF, VERASE, VINTR, VKILL, VMIN, VQUIT, VSTART, VSTOP, VSUSP, VTIME,
};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;

use super::{Scene, exec_command};
use crate::running::{CAP, poll, spawn};
use crate::supervised::Mode;

/// What a terminal does; the structure of a C library has more in it than the kernel fills in.
fn settings(of: &Termios) -> impl PartialEq + std::fmt::Debug {
    let special = [
        VMIN, VTIME, VINTR, VQUIT, VERASE, VKILL, VEOF, VSUSP, VSTART, VSTOP,
    ];
    let special = special.map(|at| of.control_chars[at as usize]);
    (
        of.input_flags,
        of.output_flags,
        of.control_flags,
        of.local_flags,
        special,
    )
}

struct User {
    terminal: std::fs::File,
    /// Of the user's own terminal, so that its mode can be looked at.
    other: OwnedFd,
    before: Termios,
    shown: Receiver<u8>,
    seen: String,
    client: Child,
}

impl User {
    fn at(scene: &Scene, arguments: &[&str]) -> Self {
        let (terminal, other) = terminal::open(Path::new("/dev/ptmx"), Size { cols: 101, rows: 37 }).unwrap();
        let before = tcgetattr(&other).unwrap();
        let end = || other.try_clone().unwrap();
        // `setsid` of util-linux gives the program its terminal, and becomes it.
        let mut command = exec_command(scene, &["setsid", "--ctty"], arguments);
        let client = spawn(
            command
                .env("TERM", "dumb")
                .stdin(end())
                .stdout(end())
                .stderr(end()),
        );
        let terminal = std::fs::File::from(terminal);
        let mut reader = terminal.try_clone().unwrap();
        let (show, shown) = channel();
        std::thread::spawn(move || {
            let mut byte = [0; 1];
            while matches!(reader.read(&mut byte), Ok(1)) && show.send(byte[0]).is_ok() {}
        });
        Self {
            terminal,
            other,
            before,
            shown,
            seen: String::new(),
            client,
        }
    }

    fn types(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    /// Reads on until that stands at the end of what is shown.
    fn sees(&mut self, text: &str) {
        self.seen.clear();
        while !self.seen.ends_with(text) {
            match self.shown.recv_timeout(CAP) {
                Ok(byte) => self.seen.push(char::from(byte)),
                Err(e) => panic!("{e} before {text:?}: {:?}", self.seen),
            }
        }
    }

    fn resizes(&self, size: Size) {
        terminal::resize(self.terminal.as_fd(), size).unwrap();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.other)
            .unwrap()
            .local_flags
            .contains(LocalFlags::ICANON)
    }

    /// The client's exit code; its terminal has to be as it was.
    fn leaves(mut self) -> Option<i32> {
        let status = poll("the client ends", || {
            self.client.try_wait().unwrap().ok_or_else(|| self.seen.clone())
        });
        let after = tcgetattr(&self.other).unwrap();
        assert_eq!(
            settings(&after),
            settings(&self.before),
            "the terminal is left changed"
        );
        status.code()
    }
}

#[test]
fn a_shell_in_a_session_is_like_one_here() {
    for scene in Scene::everywhere() {
        // The prompt would be the shell's own.
        let mut user = User::at(&scene, &["-e", "PS1=ready>", "-e", "ENV=", "a"]);
        user.sees("ready>");
        assert!(user.is_raw(), "{}", scene.what);
        user.types("tty; stty size; echo $TERM; test -t 0 && test -t 1 && test -t 2 && echo three\r");
        user.sees("three\r\nready>");
        let seen = user.seen.clone();
        assert!(seen.contains("\r\n/dev/pts/"), "{}: {seen}", scene.what);
        assert!(seen.contains("\r\n37 101\r\ndumb\r\n"), "{}: {seen}", scene.what);
        user.types("exit 5\r");
        assert_eq!(user.leaves(), Some(5), "{}", scene.what);
    }
}

#[test]
fn a_window_that_changes_changes_the_terminal_inside() {
    for scene in Scene::both() {
        let script = "trap 'stty size; exit 5' WINCH; echo armed; while :; do sleep 0.1; done";
        let mut user = User::at(&scene, &["a", "--", "sh", "-c", script]);
        user.sees("armed\r\n");
        user.resizes(Size { cols: 133, rows: 44 });
        user.sees("44 133\r\n");
        assert_eq!(user.leaves(), Some(5), "{}", scene.what);
    }
}

#[test]
fn control_c_interrupts_what_runs_in_the_foreground_and_not_the_client() {
    for scene in Scene::both() {
        let mut user = User::at(&scene, &["-e", "PS1=ready>", "-e", "ENV=", "a"]);
        user.sees("ready>");
        user.types("sleep 1000\r");
        scene.until_running("sleep", 1);
        user.types("\x03");
        user.sees("ready>");
        scene.until_running("sleep", 0);
        user.types("echo rc=$?\r");
        user.sees("rc=130\r\nready>");
        user.types("\x04");
        // A shell ends with its last command's status.
        assert_eq!(user.leaves(), Some(0), "{}", scene.what);
    }
}

#[test]
fn the_terminal_is_given_back_whatever_ends_the_client() {
    let scene = Scene::boxed(Mode::Own);
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let mut user = User::at(&scene, &["a", "--", "sh", "-c", "echo begun; sleep 1000"]);
        user.sees("begun\r\n");
        assert!(user.is_raw());
        // Our child, and not waited for yet.
        kill(Pid::from_raw(user.client.id() as i32), signal).unwrap();
        assert_eq!(user.leaves(), Some(128 + signal as i32));
        scene.until_running("sleep", 0);
    }
    // And where the session goes first.
    let mut user = User::at(&scene, &["a", "--", "sh", "-c", "echo begun; sleep 1000"]);
    user.sees("begun\r\n");
    scene.herd.herd(&["stop", "a"]);
    user.sees("herd: the session ended: stopped on request\r\n");
    assert_eq!(user.leaves(), Some(1));
}

#[test]
fn what_has_a_terminal_is_hung_up_when_its_client_is_killed() {
    for scene in Scene::everywhere() {
        let mut user = User::at(&scene, &["a", "--", "sh", "-c", "echo begun; sleep 1000; true"]);
        user.sees("begun\r\n");
        scene.until_running("sleep", 1);
        user.client.kill().unwrap();
        user.client.wait().unwrap();
        scene.until_running("sleep", 0);
    }
}

#[test]
fn without_a_terminal_of_its_own_a_client_can_ask_for_one() {
    for scene in Scene::both() {
        let said = scene.said(&["-t", "a", "--", "sh", "-c", "stty size; test -t 0; echo $?"]);
        assert_eq!(said, "24 80\r\n0\r\n", "{}", scene.what);
        // The end of what is piped is typed.
        let mut cat = scene.begin(&["-t", "-i", "a", "--", "cat"]);
        cat.stdin.take().unwrap().write_all(b"unfinished").unwrap();
        let output = cat.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("unfinished"), "{}: {said:?}", scene.what);
        assert_eq!(output.status.code(), Some(0), "{}", scene.what);
    }
    let scene = Scene::bare(Mode::Own);
    let mut user = User::at(&scene, &["-T", "a", "--", "sh", "-c", "test -t 1; echo no=$?"]);
    user.sees("no=1\r\n");
    assert_eq!(user.leaves(), Some(0));
}
