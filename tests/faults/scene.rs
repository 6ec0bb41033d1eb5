//! One herd with a session that is to suffer and a neighbour that is not. States are reached by what is observed:
//! nothing here waits for time to pass.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::beside::{Neighbour, Own};
use crate::client::Client;
use crate::frozen::Frozen;
use crate::leak;
use crate::matrix::{Case, Fault, Shape, State};
use crate::random::Random;
use crate::running::{Running, poll};
use crate::settings::{Settings, put_program, yaml};
use crate::view::{self, Phase};
use crate::watch::{Gone, Watched, baseline, comm, signal, tree};

pub(crate) const VICTIM: &str = "victim";
const FIRST: &str = "first";
/// A client waits no longer for anything to happen to it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Scene {
    pub(crate) case: Case,
    pub(crate) herd: Running,
    pub(crate) client: Client,
    pub(crate) random: Random,
    pub(crate) baseline: Duration,
    pub(crate) neighbour: Neighbour,
    own: Own,
}

/// The session in its state.
#[derive(Debug)]
pub(crate) struct Session {
    /// The client, where one waits.
    pub(crate) stream: Option<TcpStream>,
    pub(crate) phase: Phase,
    pub(crate) keeper: i32,
    pub(crate) tree: Watched,
    frozen: Option<Frozen>,
    stopping: Option<JoinHandle<()>>,
}

impl Scene {
    /// A herd for the case's state, with the neighbour bound.
    pub(crate) fn set(case: Case, settings: &Settings, random: Random) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::set_in(dir, case, settings, random)
    }

    pub(crate) fn set_in(dir: tempfile::TempDir, case: Case, settings: &Settings, random: Random) -> Self {
        let yaml = yaml(case, settings, dir.path());
        put_program(dir.path());
        let through: Vec<&str> = settings.through.iter().map(String::as_str).collect();
        let herd = Running::launch_through(&through, dir, case.mode, &yaml).ready();
        Self::around(case, herd, random)
    }

    /// With a herd that is ready.
    pub(crate) fn around(case: Case, herd: Running, random: Random) -> Self {
        let client = Client::of(&herd).unwrap();
        let neighbour = Neighbour::bind(&client);
        let mut scene = Self {
            case,
            herd,
            client,
            random,
            baseline: baseline(),
            neighbour,
            own: Own::default(),
        };
        scene.until_at_rest();
        scene.own = Own::of(scene.herd.pid());
        scene
    }

    /// Sandboxes made ahead and warm workers are there.
    pub(crate) fn until_at_rest(&self) {
        let (warm, ahead) = (usize::from(self.is_warm()), self.made_ahead());
        poll("herd is at rest", || {
            let pools = self.client.look("/v1/workers").map_err(|e| e.to_string())?;
            let is = pools["workers"][0]["warm"].as_u64();
            let keepers = self.keepers_without_worker();
            match is == Some(warm as u64) && keepers == ahead {
                true => Ok(()),
                false => Err(format!("{keepers} of {ahead} sandboxes made ahead, {pools}")),
            }
        });
    }

    fn is_warm(&self) -> bool {
        self.case.state == State::Warm
    }

    fn made_ahead(&self) -> usize {
        match self.case.shape {
            Shape::Bare => 0,
            Shape::Sandbox => 2,
        }
    }

    fn keepers_without_worker(&self) -> usize {
        let keepers = self.keepers();
        let ready = |keeper: &&i32| {
            let names: Vec<String> = tree(**keeper).into_iter().map(comm).collect();
            names.iter().any(|name| name == "herd-init") && !names.iter().any(|name| name == "faulty")
        };
        keepers.iter().filter(ready).count()
    }

    fn keepers(&self) -> Vec<i32> {
        crate::watch::children(self.launcher())
    }

    pub(crate) fn launcher(&self) -> i32 {
        let children = crate::watch::children(self.herd.pid());
        assert_eq!(children.len(), 1, "herd's only child is the launcher");
        children[0]
    }

    /// Everything that must be gone when herd is.
    pub(crate) fn everybody(&self) -> Watched {
        Watched::new(tree(self.launcher()))
    }

    /// Brings the session into the case's state.
    pub(crate) fn bring(&mut self) -> Session {
        self.bring_to(self.case.state)
    }

    pub(crate) fn bring_to(&mut self, state: State) -> Session {
        let mut stream = None;
        let mut phase = Phase::Head;
        let (mut frozen, mut stopping) = (None, None);
        let keeper = match state {
            State::Warm => self.warm(),
            State::Recycled => {
                assert_eq!(self.next_of("earlier"), "200");
                let keeper = self.keeper_of("earlier");
                self.client.stop("earlier").unwrap();
                self.until_pool("it is warm again", "warm", 1);
                assert_eq!(
                    self.warm(),
                    keeper,
                    "the worker that served is the one that is warm"
                );
                keeper
            }
            State::Queued => {
                assert_eq!(self.next_of(FIRST), "200");
                stream = Some(self.request("/"));
                self.until_pool("one is queued", "queued", 1);
                self.keeper_of(FIRST)
            }
            State::Starting => {
                stream = Some(self.request("/"));
                self.until_state("starting");
                // herd names the keeper of a session when it is bound.
                let keepers = || self.keepers_with_worker();
                let binds = !matches!(self.case.fault, Fault::NeverHealthy | Fault::BindsLate);
                poll("its program runs", || {
                    let keeper = *keepers().first().ok_or("no keeper")?;
                    let worker = self.worker_in(keeper).ok_or("no worker")?;
                    match !binds || leak::descriptors(worker).contains_key("socket:") {
                        true => Ok(keeper),
                        false => Err("it does not listen".to_owned()),
                    }
                })
            }
            State::Idle => {
                assert_eq!(self.next_of(VICTIM), "200");
                self.keeper_of(VICTIM)
            }
            State::Waiting => {
                assert_eq!(self.next_of(VICTIM), "200");
                stream = Some(self.request("/silent"));
                self.until_seen("waiting", 1);
                self.keeper_of(VICTIM)
            }
            State::Streaming | State::Drain => {
                stream = Some(self.streaming("/stream", "1\r\n.\r\n"));
                phase = Phase::Body;
                self.keeper_of(VICTIM)
            }
            State::WebSocket => {
                let mut socket = self.client.websocket(VICTIM).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                assert_echoed(&mut socket);
                stream = Some(socket);
                phase = Phase::Frames;
                self.keeper_of(VICTIM)
            }
            State::Stopping => {
                assert_eq!(self.next_of(VICTIM), "200");
                let keeper = self.keeper_of(VICTIM);
                self.until_state("ending");
                keeper
            }
            State::Dying => {
                assert_eq!(self.next_of(VICTIM), "200");
                let keeper = self.keeper_of(VICTIM);
                let worker = self.worker_in(keeper).unwrap();
                frozen = Some(Frozen::freeze(worker));
                let client = self.client.clone();
                // It is answered when the tree is gone, and not at all if herd is.
                stopping = Some(std::thread::spawn(move || drop(client.stop(VICTIM))));
                self.until_state("ending");
                keeper
            }
        };
        if state == State::Drain {
            signal(self.herd.pid(), Signal::SIGTERM);
            poll("newcomers are refused", || match self.next_of("newcomer") {
                refused if refused == "503 draining" => Ok(()),
                other => Err(other),
            });
        }
        self.random.pause();
        let tree = Watched::new(tree(keeper));
        Session {
            stream,
            phase,
            keeper,
            tree,
            frozen,
            stopping,
        }
    }

    fn request(&self, path: &str) -> TcpStream {
        self.request_of(VICTIM, path)
    }

    pub(crate) fn request_of(&self, id: &str, path: &str) -> TcpStream {
        let line = format!("GET {path}");
        let stream = self.client.send(id, &line, "connection: close\r\n", "").unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A request whose answer has come as far as this text.
    pub(crate) fn streaming(&self, path: &str, until: &str) -> TcpStream {
        let mut stream = self.request(path);
        let mut bytes = Vec::new();
        while !bytes.ends_with(until.as_bytes()) {
            let mut byte = [0];
            stream
                .read_exact(&mut byte)
                .unwrap_or_else(|e| panic!("{e} after {:?}", String::from_utf8_lossy(&bytes)));
            bytes.push(byte[0]);
        }
        stream
    }

    /// What a request of the session is answered now.
    pub(crate) fn next(&self) -> String {
        self.next_of(VICTIM)
    }

    fn next_of(&self, id: &str) -> String {
        view::to_the_end(&mut self.request_of(id, "/"), Phase::Head)
    }

    /// What the worker answers at this path.
    pub(crate) fn ask(&self, path: &str) -> Value {
        let answer = self.client.ask(VICTIM, &format!("POST {path}"), "").unwrap();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{path}: {e}: {answer}"))
    }

    pub(crate) fn until_seen(&self, what: &str, count: u64) {
        poll(&format!("the worker sees {count} {what}"), || {
            let seen = self.ask("/seen");
            (seen[what] == count).then_some(()).ok_or(seen.to_string())
        });
    }

    pub(crate) fn shown(&self, id: &str) -> Value {
        self.client
            .look(&format!("/v1/sessions/{id}"))
            .unwrap_or_else(|e| panic!("{id} cannot be looked at: {e}"))
    }

    pub(crate) fn until_state(&self, state: &str) -> Value {
        poll(&format!("the session is {state}"), || {
            let shown = self.shown(VICTIM);
            match shown["state"] == state {
                true => Ok(shown),
                false => Err(shown.to_string()),
            }
        })
    }

    pub(crate) fn until_pool(&self, what: &str, which: &str, count: u64) {
        poll(what, || {
            let pools = self.client.look("/v1/workers").map_err(|e| e.to_string())?;
            (pools["workers"][0][which] == count)
                .then_some(())
                .ok_or(pools.to_string())
        });
    }

    pub(crate) fn keeper_of(&self, id: &str) -> i32 {
        poll("the keeper is known", || {
            let shown = self.shown(id);
            shown["pid"]
                .as_i64()
                .map(|pid| pid as i32)
                .ok_or(shown.to_string())
        })
    }

    /// The keeper of the warm worker.
    fn warm(&self) -> i32 {
        let keepers = self.keepers_with_worker();
        assert_eq!(keepers.len(), 1, "one worker is warm");
        keepers[0]
    }

    /// But for the neighbour's.
    fn keepers_with_worker(&self) -> Vec<i32> {
        let neighbour = self.neighbour.keeper();
        let mut keepers = self.keepers();
        keepers.retain(|keeper| *keeper != neighbour && self.worker_in(*keeper).is_some());
        keepers
    }

    /// herd knows that the worker of this keeper is gone: a request in the moment before would be told of the crash.
    pub(crate) fn until_noticed(&self, tree: &Watched) {
        let dead = tree.pids();
        match self.case.state {
            State::Idle => drop(self.until_state("ended")),
            State::Recycled => self.until_pool("the warm worker is missed", "warm", 0),
            State::Warm => {
                // There is only one place. Nobody of the dead tree counts: with the weak guard a worker whose keeper
                // was killed is the launcher's child until it is reaped, and herd knows of nothing before that.
                poll("another has its place", || {
                    let keepers = self.keepers_with_worker();
                    let another = !keepers.is_empty() && keepers.iter().all(|keeper| !dead.contains(keeper));
                    another.then_some(()).ok_or(format!("{keepers:?}"))
                });
                self.until_pool("it is warm", "warm", 1);
            }
            _ => {}
        }
    }

    /// The worker's own process: the first of its name.
    pub(crate) fn worker_in(&self, keeper: i32) -> Option<i32> {
        tree(keeper).into_iter().find(|pid| comm(*pid) == "faulty")
    }

    pub(crate) fn init_in(&self, keeper: i32) -> i32 {
        let init = tree(keeper).into_iter().find(|pid| comm(*pid) == "herd-init");
        init.expect("a sandbox has an init")
    }

    /// The neighbour has its worker, its connection and its hold, as ever.
    pub(crate) fn assert_neighbour_lives(&mut self) {
        match self.case.state {
            State::Drain => self.neighbour.assert_served_to_the_end(&self.client),
            _ => self.neighbour.assert_lives(),
        }
    }

    /// herd has no more descriptors and threads than at first.
    pub(crate) fn until_nothing_is_open(&self) {
        poll("what is not herd's own is closed", || {
            let now = Own::of(self.herd.pid());
            match now.is_within(&self.own) && now.has_its_reserve(&self.own) {
                true => Ok(()),
                false => Err(format!("{now:?}; at first: {:?}", self.own)),
            }
        });
    }

    /// herd goes on: the neighbour lives, and nothing of the session is open any more. Ends herd.
    pub(crate) fn assert_as_before(mut self) {
        self.assert_neighbour_lives();
        if self.case.state == State::Stopping {
            // A stop before that would give its worker, which ignores it, all of the stop timeout.
            poll("its ttl has ended the session that came last", || {
                let shown = self.shown(VICTIM);
                (shown["state"] != "bound").then_some(()).ok_or(shown.to_string())
            });
        }
        for id in [VICTIM, FIRST] {
            // One that is gone already is no matter.
            let _ = self.client.stop(id);
        }
        if self.case.state != State::Drain && self.case.state != State::Recycled {
            self.until_at_rest();
            self.until_nothing_is_open();
        }
        // herd waits for clients that are there when it ends.
        drop(self.neighbour);
        drop(self.client);
        // Ends it, and asserts that nothing is left.
        drop(self.herd);
    }

    /// herd has ended, or is about to, and nothing of it may be left.
    pub(crate) fn assert_all_gone(mut self) {
        self.herd.wait();
        // Files and control groups of a herd that was killed are the next one's to remove.
        self.herd.assert_the_next_sweeps(self.case.mode);
    }

    pub(crate) fn gone(&self, watched: &Watched, since: Instant) -> Gone {
        watched.gone(since, self.baseline)
    }
}

impl Session {
    /// What the client saw until the end.
    pub(crate) fn view(&mut self) -> Option<String> {
        let phase = self.phase;
        self.stream.as_mut().map(|stream| view::to_the_end(stream, phase))
    }

    /// Lets a tree die that could not. When: from now on.
    pub(crate) fn thaw(&mut self) -> Option<Instant> {
        let frozen = self.frozen.take()?;
        drop(frozen);
        Some(Instant::now())
    }

    pub(crate) fn until_stopped(&mut self) {
        if let Some(stopping) = self.stopping.take() {
            stopping.join().unwrap();
        }
    }
}

fn assert_echoed(socket: &mut TcpStream) {
    // A masked text frame of one byte (RFC 6455 section 5.2); the worker sends back what it gets.
    let frame = [0x81, 0x81, 0, 0, 0, 0, b'x'];
    socket.write_all(&frame).unwrap();
    let mut back = [0; 7];
    socket.read_exact(&mut back).unwrap();
    assert_eq!(back, frame);
}
