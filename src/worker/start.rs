//! One worker's life, as one task: directory, port, process, readiness, end.
//!
//! ```text
//!            ┌─────────── port was a stranger's, tries left ──────────┐
//!            ▼                                                        │
//! prepare ─▶ spawn ─▶ probe ──ready──▶ serve ──reaped──▶ Gone          │
//!    │         │        ├─ ended / stranger ─▶ reaped ─┴─▶ StartFailed, Gone
//!    └────┬────┘        └─ start_timeout ─▶ StartFailed ─▶ (the driver kills) ─▶ reaped ─▶ Gone
//!         └─▶ StartFailed, Gone
//! ```
//!
//! A worker that the driver kills before it is ready is only `Gone`.

use std::cell::RefCell;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::{SandboxNetwork, Upstream, Values};
use crate::core::{Exit, SessionId, StartFailure, StartFailureKind, WorkerId};
use crate::launcher::{Keeper, sandbox};
use crate::sys::process::survivors;
use crate::sys::{listener, timer};

use super::lacking::{Lacking, MAX_SOCKET_PATH};
use super::logs::{Logs, Stream};
use super::readiness::{self, Target, Verdict};
use super::report::{Ended, ReportReader};
use super::sandbox::{Place, pipe};
use super::workers::Shared;
use super::{Death, Event, Make, environment, output, state_dir};

/// Ports tried before a worker is given up because others took them.
const TRIES: u32 = 3;

/// A tree that is gone leaves at most full pipes behind; only a pipe that was passed to a stranger stays open.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// How long a worker's end waits for its directory to be removed; the removal itself goes on.
const REMOVE_LIMIT: Duration = Duration::from_secs(2);
/// Between two tries to remove it.
const REMOVE_AGAIN: Duration = Duration::from_millis(50);

/// What a session that has just got its worker needs to send its first request.
const BREATH: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(super) struct Life {
    pub(super) worker: WorkerId,
    pub(super) make: Make,
    pub(super) session: Option<SessionId>,
    pub(super) logs: Arc<Logs>,
    pub(super) shared: Rc<Shared>,
}

/// What one try came to; there is no process left after any of them.
enum Try {
    AnotherPort,
    Over(Option<Ended>),
}

/// What a starting worker has come to.
enum Probed {
    /// Its main process has ended.
    Ended,
    Verdict(Verdict),
    /// What the latest probe saw.
    Late {
        last: String,
    },
}

impl Life {
    pub(super) async fn run(self) {
        let made = match self.make.kind.sandbox.on() {
            // All of a sandbox's files are inside.
            Some(_) => Ok(None),
            None => self.shared.state.make(self.worker).map(Some),
        };
        let end = match made {
            Ok(None) => self.tries(Path::new(sandbox::HOME)).await,
            Ok(Some(dir)) => {
                let end = self.tries(&dir).await;
                Box::pin(remove(dir)).await;
                end
            }
            Err(e) => {
                let place = self.shared.state.path().display();
                self.resource(format!("cannot make a directory for the worker in {place}: {e}"))
                    .await;
                None
            }
        };
        let killed = self.shared.killed(self.worker);
        let exit = match (&end, &killed) {
            (Some(end), _) => end.exit,
            (None, Some(_)) => Exit::Signal(libc::SIGKILL),
            (None, None) => Exit::KeeperLost,
        };
        let took = killed.as_ref().map(|killed| killed.took).unwrap_or_default();
        let survivors = killed
            .as_ref()
            .map_or(0, |killed| survivors(&killed.census.pids, killed.decided));
        if survivors > 0 {
            tracing::error!(worker = %self.worker, survivors, "processes have survived the kill of their tree");
        }
        // A kill that came when all was over has counted nobody.
        let census = match (killed.map(|killed| killed.census), end) {
            (Some(census), _) if census.processes > 0 => census,
            (_, Some(end)) => end.census,
            (census, None) => census.unwrap_or_default(),
        };
        self.shared.gone(self.worker);
        let death = Death {
            pids: census.pids,
            processes: census.processes,
            memory: census.memory,
            took,
            survivors,
            exit,
        };
        self.tell(Event::Gone {
            worker: self.worker,
            death,
        })
        .await;
    }

    async fn tries(&self, dir: &Path) -> Option<Ended> {
        for attempt in 1..=TRIES {
            if self.shared.killed(self.worker).is_some() {
                return None;
            }
            let port = match self.make.kind.upstream {
                Upstream::Port if self.has_own_network() => None,
                Upstream::Port => {
                    let port = self.shared.ports.borrow_mut().allot();
                    if port.is_none() {
                        let range = self.shared.ports.borrow().range().clone();
                        let (first, last) = (range.start(), range.end());
                        self.resource(format!("no port from {first} to {last} is free for the worker"))
                            .await;
                        return None;
                    }
                    port
                }
                Upstream::Socket => None,
            };
            let outcome = self.attempt(dir, port, attempt).await;
            if let Some(port) = port {
                self.shared.ports.borrow_mut().give_back(port);
            }
            match outcome {
                Try::AnotherPort => self.shared.pending(self.worker),
                Try::Over(exit) => return exit,
            }
        }
        None
    }

    /// Of a sandbox: then no port can be another's.
    fn has_own_network(&self) -> bool {
        let sandbox = self.make.kind.sandbox.on();
        sandbox.is_some_and(|sandbox| sandbox.network == SandboxNetwork::None)
    }

    async fn attempt(&self, dir: &Path, port: Option<u16>, attempt: u32) -> Try {
        // What only a start needs is boxed, here and below: a worker may serve for days, and its task is as large as its
        // largest moment.
        let started = Box::pin(self.start(dir, port)).await;
        self.restock();
        let (mut running, probed) = match started {
            Ok(started) => started,
            Err(NotStarted::AtAll(lacking)) => {
                self.resource(lacking.to_string()).await;
                return Try::Over(None);
            }
            Err(NotStarted::Sandbox { mut running, lacking }) => {
                // What libcontainer said of it is among the output.
                let end = running.put_down(&self.shared).await;
                self.resource(lacking.to_string()).await;
                return Try::Over(end);
            }
        };
        match probed {
            Probed::Verdict(Verdict::Ready(endpoint)) => {
                self.tell(Event::Ready {
                    worker: self.worker,
                    endpoint,
                })
                .await;
                Try::Over(running.end(&self.shared).await)
            }
            Probed::Verdict(Verdict::Stranger) => {
                let end = running.put_down(&self.shared).await;
                Box::pin(self.lost_its_port(port.unwrap_or_default(), attempt, end)).await
            }
            Probed::Verdict(Verdict::Short(e)) => {
                let end = running.put_down(&self.shared).await;
                self.resource(format!("herd cannot see whether the worker is ready: {e}"))
                    .await;
                Try::Over(end)
            }
            Probed::Late { last } => {
                let after = self.make.kind.start_timeout;
                Box::pin(self.fail(StartFailureKind::Timeout { after, last })).await;
                // The driver kills it.
                Try::Over(running.end(&self.shared).await)
            }
            Probed::Ended => Box::pin(self.ended_early(running, port, attempt)).await,
        }
    }

    /// Starts the program, and waits until it is ready or never will be.
    async fn start(&self, dir: &Path, port: Option<u16>) -> Result<(Running, Probed), NotStarted> {
        let target = self.target(dir, port)?;
        let values = self.values(dir, &target);
        let until = Instant::now() + self.make.kind.start_timeout;
        let mut running = match self.make.kind.sandbox.on() {
            Some(_) => self.spawn_sandboxed(&values, until).await?,
            None => self.spawn(&values).await?,
        };
        let probed = self.probe(&mut running, &target, until).await;
        Ok((running, probed))
    }

    /// Where the worker is to listen; `port` is what was allotted to it.
    fn target(&self, dir: &Path, port: Option<u16>) -> Result<Target, Lacking> {
        let is_sandboxed = self.make.kind.sandbox.on().is_some();
        match (port, self.make.kind.upstream) {
            (Some(port), _) => Ok(Target::Port(port)),
            (None, Upstream::Port) => Ok(Target::InsidePort),
            (None, Upstream::Socket) if is_sandboxed => Ok(Target::InsideSocket),
            (None, Upstream::Socket) => {
                let socket = dir.join("s");
                match socket.as_os_str().len() {
                    0..=MAX_SOCKET_PATH => Ok(Target::Socket(Arc::new(socket))),
                    length => Err(Lacking::ShortPath { socket, length }),
                }
            }
        }
    }

    /// What its command line and environment are filled with.
    fn values(&self, dir: &Path, target: &Target) -> Values {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let session = self.session.as_ref();
        Values {
            port: match target {
                Target::Port(port) => Some(*port),
                Target::InsidePort => Some(sandbox::PORT),
                Target::Socket(_) | Target::InsideSocket => None,
            },
            socket: match target {
                Target::Socket(path) => Some(text(path)),
                Target::InsideSocket => Some(text(&Path::new(sandbox::SOCKET_DIR).join(sandbox::SOCKET))),
                Target::Port(_) | Target::InsidePort => None,
            },
            session_id: session.map(|session| session.id().to_owned()),
            principal: session.and_then(|session| session.principal().map(str::to_owned)),
            worker: self.make.kind.name.to_string(),
            dir: text(dir),
        }
    }

    /// Waits until the worker is ready, or never will be.
    async fn probe(&self, running: &mut Running, target: &Target, until: Instant) -> Probed {
        let last = RefCell::new("none yet".to_owned());
        let keeper = Arc::clone(&running.keeper);
        tokio::select! {
            biased;
            () = running.report.ended() => Probed::Ended,
            verdict = readiness::verdict(&self.make.kind, target, &keeper, &last) => Probed::Verdict(verdict),
            () = tokio::time::sleep_until(until) => Probed::Late { last: last.borrow().clone() },
        }
    }

    /// The main process ended, or was never more than a failed `exec`.
    async fn ended_early(&self, mut running: Running, port: Option<u16>, attempt: u32) -> Try {
        let end = running.end(&self.shared).await;
        if self.shared.killed(self.worker).is_some() {
            return Try::Over(end);
        }
        if let Some(mut message) = running.report.exec_failure() {
            if let Some(hidden) = environment::hidden(&self.make.kind, &self.shared.own_env.borrow()) {
                message.push_str(&hidden);
            }
            self.fail(StartFailureKind::Exec { message }).await;
            return Try::Over(end);
        }
        // Its tree is gone, so whoever listens now is somebody else, and probably the reason.
        if let Some(port) = port
            && matches!(listener::at((Ipv4Addr::LOCALHOST, port).into()), Ok(Some(_)))
        {
            return self.lost_its_port(port, attempt, end).await;
        }
        let exit = end.as_ref().map_or(Exit::KeeperLost, |end| end.exit);
        self.fail(StartFailureKind::Exited(exit)).await;
        Try::Over(end)
    }

    async fn lost_its_port(&self, port: u16, attempt: u32, end: Option<Ended>) -> Try {
        if self.shared.killed(self.worker).is_some() {
            return Try::Over(end);
        }
        if attempt < TRIES {
            tracing::info!(worker = %self.worker, port, "another process took the worker's port; trying another");
            return Try::AnotherPort;
        }
        self.fail(StartFailureKind::PortTaken { port }).await;
        Try::Over(end)
    }

    async fn spawn(&self, values: &Values) -> Result<Running, Lacking> {
        let program = environment::program(&self.make.kind, values, &self.shared.own_env.borrow(), None);
        let ((out, out_end), (err, err_end), (status, status_end)) = (pipe()?, pipe()?, pipe()?);
        let report = ReportReader::new(status).map_err(Lacking::Pipe)?;
        let (keeper, reaped) = self
            .shared
            .client
            .spawn(program, [out_end, err_end, status_end])
            .await?;
        let keeper = Arc::new(keeper);
        self.shared.alive(self.worker, &keeper);
        Ok(Running {
            worker: self.worker,
            keeper,
            reaped,
            report,
            pumps: self.pumps([out, err]),
            place: None,
        })
    }

    /// Takes a sandbox that was made ahead, or has one made, and tells it what to run.
    async fn spawn_sandboxed(&self, values: &Values, until: Instant) -> Result<Running, NotStarted> {
        let plan = self.make.plan.as_ref().ok_or(Lacking::Plan)?;
        let program =
            environment::program(&self.make.kind, values, &self.shared.own_env.borrow(), Some(plan));
        let created = match self.shared.stock.take(plan) {
            Some(created) => created,
            None => self.shared.create_sandbox(plan).await?,
        };
        self.shared.alive(self.worker, &created.keeper);
        self.shared.counted_in(self.worker, created.group);
        let mut running = Running {
            worker: self.worker,
            keeper: created.keeper,
            reaped: created.reaped,
            report: created.report,
            pumps: self.pumps(created.outputs),
            place: Some(created.place),
        };
        let told = match tokio::time::timeout_at(until, running.report.created()).await {
            Ok(Ok(())) => running.keeper.run(program).map_err(Lacking::Ear),
            Ok(Err(message)) => Err(Lacking::Sandbox(message)),
            Err(_) => Err(Lacking::Time(self.make.kind.start_timeout)),
        };
        match told {
            Ok(()) => Ok(running),
            Err(lacking) => Err(NotStarted::Sandbox {
                running: Box::new(running),
                lacking,
            }),
        }
    }

    /// The next session is not to wait for what this one has taken; nor is this one's first request to wait for that.
    fn restock(&self) {
        if let Some(plan) = &self.make.plan {
            let (shared, plan) = (Rc::clone(&self.shared), Arc::clone(plan));
            tokio::task::spawn_local(async move {
                timer::pause(BREATH).await;
                shared.stock_up(&plan).await;
            });
        }
    }

    fn pumps(&self, [out, err]: [OwnedFd; 2]) -> Pumps {
        Pumps(
            [(out, Stream::Stdout), (err, Stream::Stderr)].map(|(fd, stream)| {
                tokio::task::spawn_local(output::pump(fd, stream, Arc::clone(&self.logs)))
            }),
        )
    }

    async fn resource(&self, message: String) {
        Box::pin(self.fail(StartFailureKind::Resource { message })).await;
    }

    /// Nothing is told of a worker that the driver has already decided to kill: that is no failure.
    async fn fail(&self, kind: StartFailureKind) {
        if self.shared.killed(self.worker).is_none() {
            let failure = StartFailure {
                kind,
                log_tail: output::tail(&self.logs),
            };
            self.tell(Event::StartFailed {
                worker: self.worker,
                failure,
            })
            .await;
        }
    }

    async fn tell(&self, event: Event) {
        // Without a driver there is nobody to tell: herd is ending, and the launcher with it.
        let _ = self.shared.events.send(event).await;
    }
}

/// A worker's process, until it is reaped.
struct Running {
    worker: WorkerId,
    keeper: Arc<Keeper>,
    reaped: oneshot::Receiver<()>,
    report: ReportReader,
    pumps: Pumps,
    /// A sandbox's ids; free again after the reaping.
    place: Option<Place>,
}

/// The tasks that read a worker's output; they end with their owner.
struct Pumps([JoinHandle<()>; 2]);

impl Drop for Pumps {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Why there is no program.
enum NotStarted {
    AtAll(Lacking),
    /// There is something to clear away.
    Sandbox {
        running: Box<Running>,
        lacking: Lacking,
    },
}

impl From<Lacking> for NotStarted {
    fn from(lacking: Lacking) -> Self {
        Self::AtAll(lacking)
    }
}

impl Running {
    /// Kills it, and waits for its end.
    async fn put_down(&mut self, shared: &Shared) -> Option<Ended> {
        if let Err(e) = self.keeper.kill() {
            tracing::error!(worker = %self.worker, "cannot kill the worker: {e}");
        }
        self.end(shared).await
    }

    /// Waits until the tree is gone and all it wrote is read. How the main process ended, and with what, if the keeper
    /// lived to tell.
    async fn end(&mut self, shared: &Shared) -> Option<Ended> {
        // An error means that the launcher is gone, and the tree with it.
        let _ = (&mut self.reaped).await;
        shared.reaped(self.worker);
        self.place = None;
        let rest = async {
            self.report.read_out().await;
            for pump in &mut self.pumps.0 {
                let _ = pump.await;
            }
        };
        let _ = Box::pin(tokio::time::timeout(DRAIN_LIMIT, rest)).await;
        self.report.end()
    }
}

/// In a thread of its own: a worker may have left any number of files. To look into a directory takes a descriptor; if there
/// is none, there may be one in a moment.
async fn remove(dir: PathBuf) {
    let shown = dir.display().to_string();
    let until = Instant::now() + REMOVE_LIMIT;
    loop {
        let dir = dir.clone();
        let removal = tokio::task::spawn_blocking(move || state_dir::remove(&dir));
        match tokio::time::timeout_at(until, removal).await {
            Ok(Ok(Ok(()))) => return,
            Ok(Ok(Err(e))) if is_shortage(&e) && Instant::now() + REMOVE_AGAIN < until => {
                tokio::time::sleep(REMOVE_AGAIN).await;
            }
            Ok(Ok(Err(e))) => {
                return tracing::warn!("cannot remove a worker's directory {shown}, the next herd will: {e}");
            }
            Ok(Err(e)) => return tracing::warn!("cannot remove a worker's directory {shown}: {e}"),
            Err(_) => {
                return tracing::warn!("a worker's directory {shown} is large; its removal goes on");
            }
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
