//! Nobody reads what herd logs: its stderr is a pipe that is full.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::process::Child;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};

use crate::client::Client;
use crate::leak;
use crate::running::{HERD, poll, spawn, start_command};

/// A herd whose log leads into a full pipe.
struct Unheard {
    child: Child,
    client: Client,
    log: File,
    /// Bytes before herd's own.
    filler: usize,
    dir: tempfile::TempDir,
}

impl Unheard {
    /// Each of a process has a port of its own.
    fn start(port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (log, stderr) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let filler = fill(&stderr.try_clone().unwrap().into());
        // On an address that nobody else on this machine has: no log tells which port was free.
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = format!("127.83.{high}.{low}:{port}");
        let yaml = format!(
            "network: {{ data_bind: \"{address}\" }}\nworkers:\n  runner:\n    cmd: [{HERD:?}, runner, --listen, \
             \"{{{{.Port}}}}\"]\n    health_path: /healthz\n    env: {{ HERD_TEST_TAG: {:?} }}\n    max: 2\n",
            dir.path()
        );
        std::fs::write(dir.path().join("herd.yaml"), yaml).unwrap();
        let child = spawn(start_command(dir.path(), "state").stderr(stderr));
        let client = Client::at(address, dir.path().join("run/control.sock"));
        let herd = Self {
            child,
            client,
            log: log.into(),
            filler,
            dir,
        };
        poll("herd is ready", || {
            herd.client.look("/v1/workers").map_err(|e| e.to_string())
        });
        herd
    }

    fn serve_sessions(&self) {
        for number in 0..20 {
            let id = format!("s{number}");
            let put = self.client.ask(&id, "PUT /v1/value", "mine").unwrap();
            assert!(put.starts_with("HTTP/1.1 204"), "{put}");
            let kept = self.client.ask(&id, "GET /v1/value", "").unwrap();
            assert!(kept.ends_with("\r\n\r\nmine"), "{kept}");
            let stopped = self.client.stop(&id).unwrap();
            assert!(stopped.starts_with("HTTP/1.1 200"), "{stopped}");
        }
    }

    fn terminate(&mut self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        let status = poll("herd ends", || {
            self.child.try_wait().unwrap().ok_or("it runs".to_owned())
        });
        assert!(status.success(), "{status}");
        let left = leak::processes(&self.dir.path().display().to_string());
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes until no byte more has room, and says how many had.
fn fill(pipe: &File) -> usize {
    fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut pipe = pipe;
    let mut written = 0;
    // Whole pages first: the last bytes of a page have room for a byte only.
    for part in [&[b'.'; 4096][..], b"."] {
        loop {
            match pipe.write(part) {
                Ok(more) => written += more,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e}"),
            }
        }
    }
    fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    written
}

#[test]
fn herd_serves_and_ends_although_nobody_reads_its_log() {
    let mut herd = Unheard::start(8081);
    herd.serve_sessions();
    herd.terminate();
}

#[test]
fn a_reader_that_comes_back_is_told_everything_to_the_last_line() {
    let mut herd = Unheard::start(8082);
    herd.serve_sessions();
    let (mut log, filler) = (herd.log.try_clone().unwrap(), herd.filler);
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        log.read_to_string(&mut said).unwrap();
        said.split_off(filler)
    });
    herd.terminate();
    let said = reader.join().unwrap();
    assert!(said.contains("herd is ready"), "{said}");
    for number in 0..20 {
        assert!(said.contains(&format!("session=s{number} ")), "s{number}: {said}");
    }
    assert!(
        said.trim_end().ends_with("herd has ended; nothing is left"),
        "{said}"
    );
}
