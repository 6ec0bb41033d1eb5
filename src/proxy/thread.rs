//! What one data-plane thread knows: the sessions it has served, without any lock.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::code::{Code, Problem};
use super::identity;
use super::peers::Peers;
use super::places::Places;
use super::tls::Tls;
use super::upstream::Bound;
use crate::access::{Access, Current, InForce};
use crate::config::Config;
use crate::core::{EndReason, HolderKind, Refusal, SessionId, StartFailureKind};
use crate::driver::{Handle, Hold, KindChoice, NotAttached, Origin, Remains, Request, Wait, Waited};
use crate::metrics::Traffic;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::traces::Traces;

const SWEEP: Duration = Duration::from_secs(1);

pub(crate) type Observers = (Option<Arc<AccessLog>>, Option<Arc<Traces>>);

#[derive(Debug)]
pub(crate) struct Thread {
    /// Which configuration this thread has a copy of, and the copy: no thread counts on another's.
    known: RefCell<Known>,
    current: Arc<Current>,
    pub(crate) tls: Option<Arc<Tls>>,
    /// Where requests leave lines and spans, if the configuration says so.
    pub(crate) log: Option<Arc<AccessLog>>,
    pub(crate) traces: Option<Arc<Traces>>,
    driver: Handle,
    sessions: RefCell<HashMap<SessionId, Rc<Bound>>>,
    draining: Cell<bool>,
    pub(crate) peers: Peers,
    pub(crate) traffic: Arc<Traffic>,
}

/// A configuration, and whom it lets in.
#[derive(Debug)]
struct Known {
    generation: u64,
    config: Rc<Config>,
    /// `None`: whoever can connect may.
    access: Option<Rc<Access>>,
}

impl Known {
    fn of(current: &Current) -> Self {
        let (generation, InForce { config, access }) = current.get();
        Self {
            generation,
            config: Rc::new(Config::clone(&config)),
            access: access.map(|access| Rc::new(Access::clone(&access))),
        }
    }
}

/// A request's session.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) bound: Rc<Bound>,
    pub(crate) hold: Hold,
    pub(crate) origin: Origin,
    pub(crate) waited: Waited,
}

impl Thread {
    pub(crate) fn new(tls: Option<Arc<Tls>>, (log, traces): Observers, driver: Handle) -> Rc<Self> {
        let current = Arc::clone(driver.config());
        let known = RefCell::new(Known::of(&current));
        let traffic = driver.metrics().threads().join();
        Rc::new(Self {
            known,
            current,
            tls,
            log,
            traces,
            driver,
            sessions: RefCell::default(),
            draining: Cell::new(false),
            peers: Peers::default(),
            traffic,
        })
    }

    /// The configuration in force. Who goes on with what it has taken goes by one configuration all the way.
    pub(crate) fn config(&self) -> Rc<Config> {
        self.in_force().0
    }

    /// The same, and whom it lets in; `None`: whoever can connect.
    pub(crate) fn in_force(&self) -> (Rc<Config>, Option<Rc<Access>>) {
        let mut known = self.known.borrow_mut();
        if known.generation != self.current.generation() {
            *known = Known::of(&self.current);
        }
        (Rc::clone(&known.config), known.access.clone())
    }

    /// Counts a request that was refused without the driver.
    pub(crate) fn refused(&self, kind: KindChoice, code: Code) {
        let (KindChoice::Named(kind) | KindChoice::Fallback(kind)) = kind;
        let config = self.config();
        self.driver
            .metrics()
            .refused(config.kind_name(kind), code.as_str());
    }

    /// A hold on the session of this name, if this thread knows it and it has not ended. Never visits the driver.
    pub(crate) fn claim_known(&self, id: &str, kind: KindChoice) -> Option<Result<Claim, Refused>> {
        let bound = Rc::clone(self.sessions.borrow().get(id)?);
        if let KindChoice::Named(named) = kind
            && named != bound.session.kind_id
            && !bound.session.is_closed()
        {
            let bound_to = bound.session.kind_id;
            let refusal = Refusal::WorkerMismatch { bound_to };
            self.refused(kind, Code::WorkerMismatch);
            return Some(Err(Refused::NotAttached(refusal.into())));
        }
        let hold = bound.session.hold(HolderKind::Request)?;
        Some(Ok(Claim {
            bound,
            hold,
            origin: Origin::Reused,
            waited: Waited::default(),
        }))
    }

    /// The session of this name, bound to a worker, which is started if need be.
    pub(crate) async fn claim(
        &self,
        id: &str,
        kind: KindChoice,
        (wait, remains): (Wait, Remains),
    ) -> Result<Claim, Refused> {
        let id = SessionId::parse(id.as_bytes())
            .map_err(|e| Refused::Problem(Problem::new(Code::IdInvalid, e.to_string())))?;
        let request = Request {
            id: id.clone(),
            kind,
            holder: HolderKind::Request,
            wait,
            remains,
        };
        let attached = self.driver.attach(request).await.map_err(Refused::NotAttached)?;
        let session = Arc::clone(attached.session());
        let mut sessions = self.sessions.borrow_mut();
        let bound = match sessions.get(&id) {
            Some(bound) if Arc::ptr_eq(&bound.session, &session) => Rc::clone(bound),
            _ => {
                let bound = Bound::new(session);
                // An end that was announced before this insertion would never be heard of again.
                if !bound.session.is_closed() {
                    sessions.insert(id, Rc::clone(&bound));
                }
                bound
            }
        };
        let crate::driver::Attached { hold, origin, waited } = attached;
        Ok(Claim {
            bound,
            hold,
            origin,
            waited,
        })
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    pub(crate) fn drain(&self) {
        self.draining.set(true);
    }

    /// Forgets sessions as they end and closes idle worker connections, and has new places for connections. Runs as long as the thread.
    pub(crate) async fn tidy(self: Rc<Self>, places: Arc<Places>) {
        let mut endings = self.driver.endings();
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = endings.recv() => match ended {
                    Ok(name) => {
                        let mut sessions = self.sessions.borrow_mut();
                        if sessions.get(&name.id).is_some_and(|b| b.session.name == name)
                            && let Some(bound) = sessions.remove(&name.id)
                        {
                            bound.forget();
                        }
                    }
                    Err(RecvError::Lagged(_)) => self.forget_closed(),
                    // The driver holds the other end until the process exits.
                    Err(RecvError::Closed) => return,
                },
                _ = sweep.tick() => {
                    places.limit(self.config().network.max_connections);
                    let now = Instant::now();
                    self.sessions.borrow().values().for_each(|bound| bound.sweep(now));
                }
            }
        }
    }

    fn forget_closed(&self) {
        self.sessions.borrow_mut().retain(|_, bound| {
            let open = !bound.session.is_closed();
            if !open {
                bound.forget();
            }
            open
        });
    }
}

/// A failed start for those who have no business with this host's programs and directories.
fn outline(failure: &StartFailureKind) -> String {
    match failure {
        StartFailureKind::Exec { .. } => "the worker's program could not be run".to_owned(),
        StartFailureKind::Exited(_) | StartFailureKind::Unused(_) => failure.to_string(),
        StartFailureKind::Timeout { after, .. } => format!("the worker was not ready within {after:?}"),
        StartFailureKind::PortTaken { .. } | StartFailureKind::Resource { .. } => {
            "herd did not have what the worker needs".to_owned()
        }
        StartFailureKind::TooLarge { .. } => {
            "this host does not have the memory for such a worker".to_owned()
        }
    }
}

pub(crate) fn ended(reason: &EndReason) -> Problem {
    match reason {
        EndReason::Crashed(exit) => {
            Problem::new(Code::WorkerCrashed, format!("the worker ended by itself: {exit}"))
        }
        EndReason::ProbeFailed(unwell) => {
            Problem::new(Code::WorkerCrashed, format!("the worker was killed: it {unwell}"))
        }
        reason => Problem::new(Code::SessionEnded, format!("the session ended: {reason}")),
    }
}

/// Why a request got no session.
#[derive(Debug)]
pub(crate) enum Refused {
    Problem(Problem),
    /// By the driver, or as it would.
    NotAttached(NotAttached),
}

impl Refused {
    /// The answer to the request, which is served by `config`. Who is not `local` sees neither what a worker printed
    /// nor what of this host its start failed for.
    pub(crate) fn problem(self, config: &Config, local: Local) -> Problem {
        let refusal = match self {
            Self::Problem(problem) => return problem,
            Self::NotAttached(refused) => refused.refusal,
        };
        let text = refusal.to_string();
        let detail = match &refusal {
            Refusal::UnknownWorker => return identity::unknown_worker(config, &text),
            Refusal::WorkerMismatch { bound_to } => match config.kind_name(*bound_to) {
                // It came with a later configuration than this request.
                "" => text,
                kind => format!("the session is bound to a worker of kind {kind}"),
            },
            Refusal::SessionLost { .. } => {
                format!("{text}; send \"X-Herd-Session: new\" to start anew")
            }
            Refusal::WorkerBackoff { .. } if local == Local::Remote => {
                "recent starts of this kind failed, and herd waits before the next".to_owned()
            }
            Refusal::StartFailed(failure) if local == Local::Remote => outline(&failure.kind),
            _ => text,
        };
        let mut problem = Problem::new(Code::of(&refusal), detail);
        problem.retry_after = refusal.retry_after();
        match refusal {
            Refusal::SessionLost { .. } => problem.status = Some(config.session.lost_status),
            Refusal::StartFailed(failure) if local == Local::Loopback => problem.log_tail = failure.log_tail,
            _ => {}
        }
        problem
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Local {
    Loopback,
    Remote,
}
