//! What is remembered of sessions for people: when, which worker, why it ended, what died with it.
//! Bounded; decisions never depend on it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::burial::{Burial, Burials};
use super::handle::{SessionOutput, SessionState, SessionView};
use crate::core::{
    Afterwards, ConfigGeneration, EndReason, Generation, Moment, Overview, SessionId, SessionRef, Stage,
    WorkerId,
};
use crate::worker::{self, Death, Logs, Sandboxing};

/// Ended sessions that are remembered.
const HISTORY: usize = 1000;
/// Of those, the latest whose worker's whole output is kept: a ring is up to `log_buffer` bytes. Of others, its last lines are.
const HISTORY_LOGS: usize = 64;

#[derive(Debug)]
struct Record {
    view: SessionView,
    output: SessionOutput,
}

#[derive(Debug)]
pub(super) struct Records {
    started: SystemTime,
    /// Bound sessions, and ended ones whose tree is not gone yet.
    live: HashMap<SessionRef, Record>,
    /// Oldest first.
    ended: VecDeque<Record>,
    /// Where sessions go that shall be known to the next herd.
    history: Option<Burials>,
}

/// What is known of a session once it has its worker.
#[derive(Debug)]
pub(super) struct Bound<'a> {
    pub(super) session: &'a SessionRef,
    pub(super) kind: &'a str,
    pub(super) worker: WorkerId,
    pub(super) config: ConfigGeneration,
    pub(super) sandboxing: Sandboxing,
    pub(super) pid: Option<i32>,
    pub(super) endpoint: String,
    /// When it was first asked for.
    pub(super) since: Moment,
}

impl Records {
    /// `started`: the wall-clock time of moment zero.
    pub(super) fn new(started: SystemTime) -> Self {
        Self {
            started,
            live: HashMap::new(),
            ended: VecDeque::new(),
            history: None,
        }
    }

    pub(super) fn keep_history(&mut self, burials: Burials) {
        self.history = Some(burials);
    }

    pub(super) fn end_history(&mut self) {
        self.history = None;
    }

    pub(super) fn bound(
        &mut self,
        Bound {
            session,
            kind,
            worker,
            config,
            sandboxing,
            pid,
            endpoint,
            since,
        }: Bound<'_>,
    ) {
        let view = SessionView {
            session: session.clone(),
            kind: kind.to_owned(),
            sandboxing: Some(sandboxing),
            config: Some(config),
            outdated: false,
            state: SessionState::Bound,
            worker: Some(worker),
            pid,
            endpoint: Some(endpoint),
            created: self.started + since.0,
            holders: 0,
            streams: 0,
            holds: 0,
            ends: None,
            ended: None,
            death: None,
            since_left: None,
        };
        if let Some(history) = &self.history {
            history.began(view.clone());
        }
        let output = SessionOutput::Gone;
        self.live.insert(session.clone(), Record { view, output });
    }

    /// The session was decided to end. If its worker lives on, nothing more will come.
    pub(super) fn ended_now(&mut self, session: &SessionRef, reason: EndReason, afterwards: Afterwards) {
        let Some(record) = self.live.get_mut(session) else {
            return;
        };
        record.view.ended = Some(SystemTime::now());
        match afterwards {
            Afterwards::Ends => record.view.state = SessionState::Ending(reason),
            Afterwards::Recycled => {
                record.view.state = SessionState::Ended(reason);
                self.bury(session);
            }
        }
    }

    /// The session's tree is gone.
    pub(super) fn buried(
        &mut self,
        session: &SessionRef,
        death: Death,
        since_left: Option<Duration>,
        logs: Option<Arc<Logs>>,
    ) {
        let Some(record) = self.live.get_mut(session) else {
            return;
        };
        record.view.death = Some(death);
        record.view.since_left = since_left;
        record.output = logs.map_or(SessionOutput::Gone, SessionOutput::Ring);
        if let SessionState::Ending(reason) = &record.view.state {
            record.view.state = SessionState::Ended(reason.clone());
        }
        self.bury(session);
    }

    fn bury(&mut self, session: &SessionRef) {
        if let Some(record) = self.live.remove(session) {
            if let Some(history) = &self.history {
                let log = last_lines(&record.output).to_vec();
                let view = record.view.clone();
                history.ended(Burial { view, log });
            }
            self.ended.push_back(record);
        }
        if self.ended.len() > HISTORY {
            self.ended.pop_front();
        }
        if let Some(index) = self.ended.len().checked_sub(HISTORY_LOGS + 1)
            && let Some(old) = self.ended.get_mut(index)
        {
            old.output = match &old.output {
                SessionOutput::Gone => SessionOutput::Gone,
                kept => SessionOutput::LastLines(last_lines(kept)),
            };
        }
    }

    /// Sessions that have ended but whose trees have not.
    pub(super) fn ending(&self) -> impl Iterator<Item = SessionView> + '_ {
        let ending = |record: &&Record| matches!(record.view.state, SessionState::Ending(_));
        self.live
            .values()
            .filter(ending)
            .map(|record| record.view.clone())
    }

    pub(super) fn ended(&self) -> impl Iterator<Item = SessionView> + '_ {
        self.ended.iter().map(|record| record.view.clone())
    }

    /// Every ending and ended incarnation of an id.
    pub(super) fn of(&self, id: &SessionId) -> Vec<SessionView> {
        self.ending()
            .chain(self.ended())
            .filter(|view| view.session.id == *id)
            .collect()
    }

    /// The incarnation of an id that has ended, but whose tree has not.
    pub(super) fn dying(&self, id: &SessionId) -> Option<SessionView> {
        self.ending().find(|view| view.session.id == *id)
    }

    /// The output of the newest incarnation that ends or has ended, or of the one of the generation `only`.
    pub(super) fn output(
        &self,
        id: &SessionId,
        only: Option<Generation>,
        of_worker: impl Fn(WorkerId) -> Option<Arc<Logs>>,
    ) -> Option<SessionOutput> {
        let asked =
            |session: &SessionRef| session.id == *id && only.is_none_or(|only| session.generation == only);
        let dying = self.ending().find(|view| asked(&view.session));
        if let Some(logs) = dying.and_then(|view| view.worker).and_then(of_worker) {
            return Some(SessionOutput::Ring(logs));
        }
        let buried = self.ended.iter().rev();
        let mut buried = buried.filter(|record| asked(&record.view.session));
        buried.next().map(|record| record.output.clone())
    }

    /// A live session as the core sees it, with what is known beside.
    pub(super) fn view(
        &self,
        overview: &Overview,
        kind: &str,
        now: Moment,
        (holders, streams, holds): (u32, u32, u16),
    ) -> SessionView {
        let known = self.live.get(&overview.session).map(|record| &record.view);
        let state = match &overview.stage {
            Stage::Queued => SessionState::Queued,
            Stage::Starting => SessionState::Starting,
            Stage::Bound { .. } => SessionState::Bound,
            Stage::Lost { reason } => SessionState::Ended(reason.clone()),
        };
        SessionView {
            session: overview.session.clone(),
            kind: kind.to_owned(),
            sandboxing: known.and_then(|view| view.sandboxing),
            config: overview.config,
            outdated: false,
            state,
            worker: known.and_then(|view| view.worker),
            pid: known.and_then(|view| view.pid),
            endpoint: known.and_then(|view| view.endpoint.clone()),
            created: self.started + overview.since.0,
            holders,
            streams,
            holds,
            ends: overview.ends.map(|(at, fate)| (at.since(now), fate)),
            ended: None,
            death: None,
            since_left: None,
        }
    }
}

fn last_lines(output: &SessionOutput) -> Arc<[String]> {
    match output {
        SessionOutput::Ring(logs) => worker::tail(logs).into(),
        SessionOutput::LastLines(lines) => Arc::clone(lines),
        SessionOutput::Gone => Arc::new([]),
    }
}
