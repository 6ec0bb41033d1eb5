//! A new configuration takes the place of the one in force.
//!
//! Whoever wants that asks by [`Reloads`]; somebody else reads and judges the file, which takes longer than the driver
//! may. What is left for the driver is one step between two others: kinds get their numbers, the core its rules, the
//! crew its plans, and the data plane the new configuration.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tracing::info;

use super::handle::DriverGone;
use super::journal::{By, Event as JournalEvent};
use super::{Crew, Driver, KindChoice, REASONS, principals, rules};
use crate::access::{InForce, Secrets};
use crate::config::{Config, FormerKind, Kind, Problem};
use crate::core::{Change, ConfigGeneration, KindId, SessionId, WorkerId};
use crate::worker::{Make, Plan, Plans};

/// A configuration that has been judged, and what its sandboxes are made of.
#[derive(Debug)]
pub struct Next {
    pub config: Config,
    /// What the configuration's `auth` names; `None`: it has none.
    pub secrets: Option<Secrets>,
    /// One per kind. A plan that is as the present one is that very plan.
    pub plans: Plans,
}

/// What has become of each kind, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    pub generation: ConfigGeneration,
    pub added: Vec<String>,
    /// Its workers are replaced.
    pub renewed: Vec<String>,
    /// Only its rules have changed.
    pub adjusted: Vec<String>,
    pub removed: Vec<String>,
}

/// Why the old configuration is still in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReloaded {
    /// The file cannot be had, or is wrong. As `herd check` says it, and each mistake by itself.
    Invalid {
        text: String,
        problems: Vec<Problem>,
    },
    /// It is right, but only a start can take it.
    NeedsRestart {
        text: String,
        problems: Vec<Problem>,
    },
    Draining,
}

impl NotReloaded {
    pub fn text(&self) -> String {
        match self {
            Self::Invalid { text, .. } | Self::NeedsRestart { text, .. } => text.clone(),
            Self::Draining => DriverGone.to_string(),
        }
    }

    /// Each mistake of the file by itself.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid { problems, .. } | Self::NeedsRestart { problems, .. } => problems,
            Self::Draining => &[],
        }
    }
}

/// What asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// SIGHUP.
    Signal,
    /// The file has changed (`herd start --watch`).
    File,
    Control(By),
}

impl Cause {
    /// The stable word for events and logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::File => "watch",
            Self::Control(_) => "control",
        }
    }
}

/// Somebody who wants the file to be read again.
#[derive(Debug)]
pub struct Wish {
    pub cause: Cause,
    pub reply: oneshot::Sender<Result<Reloaded, NotReloaded>>,
}

/// Asks for a reload.
#[derive(Debug, Clone)]
pub struct Reloads(mpsc::Sender<Wish>);

impl Reloads {
    /// Wishes that may wait before their senders wait themselves.
    const WAITING: usize = 64;

    pub fn channel() -> (Self, mpsc::Receiver<Wish>) {
        let (wish, wishes) = mpsc::channel(Self::WAITING);
        (Self(wish), wishes)
    }

    /// Resolves when the file, as it is now or later, is in force, or is not.
    pub async fn ask(&self, cause: Cause) -> Result<Reloaded, NotReloaded> {
        let (reply, answer) = oneshot::channel();
        if self.0.send(Wish { cause, reply }).await.is_err() {
            return Err(NotReloaded::Draining);
        }
        answer.await.unwrap_or(Err(NotReloaded::Draining))
    }
}

impl<C: Crew> Driver<C> {
    pub(super) fn reconfigure(&mut self, next: Next, cause: &Cause) -> Result<Reloaded, NotReloaded> {
        if self.core.is_draining() {
            return Err(NotReloaded::Draining);
        }
        if next.secrets.is_some() != self.access.is_some() {
            let text = "auth: sessions have other names with it than without, so only a start can take that"
                .to_owned();
            let problems = Vec::new();
            return Err(NotReloaded::NeedsRestart { text, problems });
        }
        let Next {
            mut config,
            secrets,
            plans,
        } = next;
        let mut reloaded = Reloaded {
            generation: ConfigGeneration(self.core.config_generation().0 + 1),
            added: Vec::new(),
            renewed: Vec::new(),
            adjusted: Vec::new(),
            removed: Vec::new(),
        };
        // Until the file names them.
        let mut changes = vec![Change::Removed; self.makes.len()];
        let mut asked_otherwise = Vec::new();
        for (index, kind) in config.kinds.iter_mut().enumerate() {
            let plan = plans.get(index).cloned().flatten();
            let turn = self.take_kind(kind, plan);
            if let Turn::Adjusted {
                liveness: Liveness::Other,
            } = turn
            {
                asked_otherwise.push(kind.id);
            }
            let rules = rules(kind, config.session.lost_for);
            let change = match turn {
                Turn::Added | Turn::Renewed => Change::Renewed(rules),
                Turn::Adjusted { .. } | Turn::Same => Change::Kept(rules),
            };
            match changes.get_mut(kind.id.0) {
                Some(known) => *known = change,
                None => changes.push(change),
            }
            let name = kind.name.clone();
            match turn {
                Turn::Added => reloaded.added.push(name),
                Turn::Renewed => reloaded.renewed.push(name),
                Turn::Adjusted { .. } => reloaded.adjusted.push(name),
                Turn::Same => {}
            }
        }
        let numbers: Vec<KindId> = config.kinds.iter().map(|kind| kind.id).collect();
        for key in config.auth.iter_mut().flat_map(|auth| &mut auth.keys) {
            for kind in key.workers.iter_mut().flatten() {
                *kind = numbers.get(kind.0).copied().unwrap_or(*kind);
            }
        }
        let gone = |kind: &&Arc<Kind>| config.kinds.iter().all(|next| next.id != kind.id);
        reloaded.removed = self
            .config
            .kinds
            .iter()
            .filter(gone)
            .map(|kind| kind.name.clone())
            .collect();
        let former = self.makes.iter().map(|make| &make.kind).filter(gone);
        let former = former.map(|kind| FormerKind {
            id: kind.id,
            name: kind.name.clone(),
        });
        config.former = former.collect();
        let plans: Vec<Arc<Plan>> = plans.into_iter().flatten().collect();
        self.crew.renew(&plans, &config.secret_variables());
        self.config = Arc::new(config);
        // By the new reserve, before anybody starts by it.
        self.weigh();
        self.core.reload(changes, self.clock.now());
        self.watch_anew(&asked_otherwise);
        if let (Some(access), Some(secrets)) = (&self.access, secrets) {
            self.access = access.renewed(&self.config, secrets);
            self.core
                .reload_principals(principals(&self.config), self.clock.now());
        }
        // After the core: who knows a kind may ask for it.
        self.current.replace(InForce {
            config: Arc::clone(&self.config),
            access: self.access.clone(),
        });
        self.metrics.reloaded(self.core.config_generation().0);
        info!(
            generation = self.core.config_generation().0,
            cause = cause.word(),
            added = reloaded.added.join(", "),
            renewed = reloaded.renewed.join(", "),
            adjusted = reloaded.adjusted.join(", "),
            removed = reloaded.removed.join(", "),
            "configuration reloaded"
        );
        self.journal.push(JournalEvent::ConfigReloaded {
            cause: cause.word(),
            reloaded: reloaded.clone(),
        });
        Ok(reloaded)
    }

    /// Who names no kind may have been told one by a configuration that is past by now. If that kind is gone, it is for the
    /// first that there is for the session's owner.
    pub(super) fn meant(&self, kind: KindChoice, id: &SessionId) -> KindChoice {
        match kind {
            KindChoice::Fallback(told) if self.config.kinds.iter().all(|kind| kind.id != told) => {
                let access = self.access.as_ref();
                let owner = access.and_then(|access| access.principal(id.principal()?));
                let first = owner.and_then(|owner| owner.first_kind());
                KindChoice::Fallback(first.unwrap_or_else(|| self.config.first_kind()))
            }
            kind => kind,
        }
    }

    /// Has the workers of these kinds asked whether they are alive as their kinds want it now; not those of another
    /// configuration, which may not know what they would be asked.
    fn watch_anew(&mut self, kinds: &[KindId]) {
        let core = &self.core;
        let workers: Vec<WorkerId> = self
            .staff
            .iter()
            .filter(|(_, staff)| kinds.contains(&staff.kind) && staff.endpoint.is_some())
            .filter(|(_, staff)| !core.is_outdated(staff.kind, staff.config))
            .map(|(worker, _)| *worker)
            .collect();
        for worker in workers {
            let probes = self.probes(worker);
            self.crew.watch(worker, probes);
        }
    }

    /// Gives the kind the number that its name has, and its make the place of the one that there was.
    fn take_kind(&mut self, kind: &mut Arc<Kind>, plan: Option<Arc<Plan>>) -> Turn {
        let known = self.makes.iter().position(|make| make.kind.name == kind.name);
        let id = KindId(known.unwrap_or(self.makes.len()));
        // Up to now it had its place in the file for a number.
        *kind = Arc::new(Kind {
            id,
            ..Kind::clone(kind)
        });
        let make = Make {
            kind: Arc::clone(kind),
            plan,
        };
        let Some(place) = self.makes.get_mut(id.0) else {
            self.metrics.add_kind(&kind.name, &REASONS);
            self.makes.push(make);
            return Turn::Added;
        };
        let old = std::mem::replace(place, make);
        let same_plan = is_same(&old.plan, &place.plan);
        if self.config.kinds.iter().all(|present| present.id != id) {
            // It was here before, and is back.
            Turn::Added
        } else if !same_plan || !old.kind.has_the_workers_of(kind) {
            Turn::Renewed
        } else if *old.kind != **kind {
            let liveness = match old.kind.liveness == kind.liveness {
                true => Liveness::Same,
                false => Liveness::Other,
            };
            Turn::Adjusted { liveness }
        } else {
            Turn::Same
        }
    }
}

/// What a reload is to one kind that the file names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Added,
    Renewed,
    Adjusted { liveness: Liveness },
    Same,
}

/// How its workers are asked whether they are alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Liveness {
    Same,
    Other,
}

fn is_same(old: &Option<Arc<Plan>>, new: &Option<Arc<Plan>>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        (None, None) => true,
        _ => false,
    }
}
