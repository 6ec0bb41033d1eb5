//! herd and its peers, started for the same job: route by `X-Session-ID`, set the forwarding headers, keep
//! connections to one upstream. Each has one core and one data-plane thread.
//!
//! | front | upstream | does |
//! |---|---|---|
//! | `herd`, `herd-unix` | a worker each | |
//! | `haproxy`, `haproxy-unix` | shared | requires the header, sticks to it (stick table), reuses connections |
//! | `haproxy-plain` | shared | the same without the table: no session router, for the difference |
//! | `nginx`, `nginx-unix` | shared | hashes by the header, keeps connections, buffers nothing |
//! | `floor` | shared | copies bytes, see `load::floor` |
//! | `direct` | | the shared upstream itself |

mod haproxy;
mod herd;
mod nginx;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::lab::{Lab, program};
use crate::load::Target;
use crate::process::{Process, threads};
use crate::table::Row;

/// Where a proxy listens, and the process whose CPU time counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Front {
    pub(crate) name: &'static str,
    pub(crate) target: Target,
    pub(crate) pid: i32,
}

/// Everything that runs while rows are measured; fields are dropped from the first to the last.
#[derive(Debug)]
pub(crate) struct Peers {
    fronts: Vec<Front>,
    _proxies: Vec<Process>,
    _upstream: Process,
}

/// The upstream that all but herd share.
#[derive(Debug)]
struct Upstream {
    port: u16,
    socket: PathBuf,
}

impl Peers {
    /// Starts those that are installed, in a directory of their own.
    pub(crate) fn start(lab: &Lab, name: &str) -> anyhow::Result<Self> {
        let dir = lab.dir(name)?;
        let shared = Upstream {
            port: free_port()?,
            socket: dir.join("up.sock"),
        };
        let upstream = start_upstream(lab, &dir, &shared)?;
        let direct = front("direct", shared.port, upstream.pid());
        let mut peers = Self {
            fronts: vec![direct],
            _proxies: Vec::new(),
            _upstream: upstream,
        };
        peers.add(herd::start(lab, &dir)?)?;
        peers.add(start_floor(lab, &dir, &shared)?)?;
        match program("haproxy") {
            Some(haproxy) => peers.add(haproxy::start(lab, &dir, &haproxy, &shared)?)?,
            None => missing(lab, "haproxy", "haproxy"),
        }
        match program("nginx") {
            Some(nginx) => peers.add(nginx::start(lab, &dir, &nginx, &shared)?)?,
            None => missing(lab, "nginx", "nginx-light"),
        }
        Ok(peers)
    }

    /// # Errors
    /// It has more threads than herd's five, of which four are idle meanwhile: the owner of the sessions, the control
    /// API's, the log's, the history's.
    fn add(&mut self, (process, fronts): (Process, Vec<Front>)) -> anyhow::Result<()> {
        let threads = threads(process.pid())?;
        anyhow::ensure!(
            threads <= 5,
            "{} has {threads} threads, more than one for its data",
            fronts[0].name
        );
        self._proxies.push(process);
        self.fronts.extend(fronts);
        Ok(())
    }

    pub(crate) fn front(&self, name: &str) -> Option<Front> {
        self.fronts.iter().find(|front| front.name == name).copied()
    }

    /// A reading of each of these fronts in turn, round by round, with another one first each time; the first round
    /// is discarded. Readings of a front whose name begins with herd's are herd's, those of others are a peer's.
    pub(crate) fn take_turns(
        &self,
        lab: &Lab,
        names: &[&str],
        mut reading: impl FnMut(Front, Keep) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let fronts: Vec<Front> = names.iter().filter_map(|name| self.front(name)).collect();
        for round in 0..=lab.rounds as usize {
            let keep = if round == 0 { Keep::Discard } else { Keep::Keep };
            for turn in 0..fronts.len() {
                lab.go_on()?;
                let front = fronts[(round + turn) % fronts.len()];
                reading(front, keep).with_context(|| front.name)?;
            }
        }
        Ok(())
    }
}

/// Whether a reading counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Discard,
    Keep,
}

/// Puts a reading where it belongs.
pub(crate) fn enter(row: &mut Row, front: Front, keep: Keep, reading: f64) {
    match keep {
        Keep::Discard => {}
        Keep::Keep if front.name.starts_with("herd") => row.herd.push(reading),
        Keep::Keep => row.peer(front.name).push(reading),
    }
}

fn missing(lab: &Lab, name: &str, package: &str) {
    lab.say(&format!(
        "!!! {name} is not installed: rows against it stay UNMEASURED (Debian: apt-get install --no-install-recommends {package})"
    ));
}

fn front(name: &'static str, port: u16, pid: i32) -> Front {
    session_front(name, port, pid, "targets")
}

fn session_front(name: &'static str, port: u16, pid: i32, session: &'static str) -> Front {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Front {
        name,
        target: Target { addr, session },
        pid,
    }
}

/// Free a moment ago. A program that takes it first makes the start fail, visibly.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The command line of this program as a worker.
fn upstream_command(lab: &Lab) -> anyhow::Result<Vec<String>> {
    let this = std::env::current_exe()?;
    let this = this.to_str().context("a path that is not UTF-8")?.to_owned();
    Ok(vec![
        this,
        "upstream".to_owned(),
        "--core".to_owned(),
        lab.cores.upstream.to_string(),
    ])
}

fn start_upstream(lab: &Lab, dir: &Path, shared: &Upstream) -> anyhow::Result<Process> {
    let command = upstream_command(lab)?;
    let mut arguments = command[1..].to_vec();
    arguments.extend(["--tcp".to_owned(), shared.port.to_string(), "--unix".to_owned()]);
    arguments.push(shared.socket.display().to_string());
    let mut process = Process::start(
        "upstream",
        lab.cores.upstream,
        dir,
        Path::new(&command[0]),
        arguments,
    )?;
    let direct = front("direct", shared.port, process.pid());
    process.until("the upstream answers", || direct.target.once("/small", ""))?;
    Ok(process)
}

fn start_floor(lab: &Lab, dir: &Path, shared: &Upstream) -> anyhow::Result<(Process, Vec<Front>)> {
    let port = free_port()?;
    let arguments = [
        "floor",
        "--tcp",
        &port.to_string(),
        "--to",
        &shared.port.to_string(),
    ]
    .map(str::to_owned);
    let mut process = Process::start(
        "floor",
        lab.cores.proxy,
        dir,
        &std::env::current_exe()?,
        arguments,
    )?;
    let floor = front("floor", port, process.pid());
    process.until("the floor answers", || floor.target.once("/small", ""))?;
    Ok((process, vec![floor]))
}
