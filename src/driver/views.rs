//! What the driver shows of what it knows: copies, made between two deeds.

use std::sync::Arc;

use super::handle::{Among, PoolView, PoolsView, SessionView, Standing};
use super::{Crew, Driver, NoOutput, SessionOutput};
use crate::config::Kind;
use crate::core::{Generation, KindId, Overview, SessionId, Stage};
use crate::worker::Make;

impl<C: Crew> Driver<C> {
    /// Live sessions, oldest first; before them the remembered ended ones, if they are asked for.
    pub(super) fn list(&self, among: Among) -> Vec<SessionView> {
        // The remains of a crash are listed among the ended.
        let lives = |overview: &Overview| !matches!(overview.stage, Stage::Lost { .. });
        let mut views: Vec<SessionView> = self
            .core
            .sessions()
            .filter(lives)
            .map(|overview| self.view(&overview))
            .collect();
        views.extend(self.records.ending());
        views.sort_by_key(|view| (view.created, view.session.generation));
        if among == Among::All {
            views.splice(0..0, self.records.ended());
        }
        self.tell_config(&mut views);
        views
    }

    /// Every remembered incarnation of an id, newest first.
    pub(super) fn show(&self, id: &SessionId) -> Vec<SessionView> {
        let current = self.core.session(id).map(|overview| self.view(&overview));
        let mut views: Vec<SessionView> = self.records.of(id);
        views.extend(current);
        views.sort_by_key(|view| std::cmp::Reverse(view.session.generation));
        views.dedup_by(|a, b| a.session == b.session);
        self.tell_config(&mut views);
        views
    }

    pub(super) fn pools(&self) -> PoolsView {
        let view = |kind: &Arc<Kind>| self.pool(kind.id, Standing::Present);
        let present = self.config.kinds.iter().map(view);
        let former = self.config.former.iter();
        let former = former.map(|kind| self.pool(kind.id, Standing::Removed));
        PoolsView {
            generation: self.core.config_generation(),
            kinds: present.chain(former.filter(PoolView::has_workers)).collect(),
            draining: self.core.is_draining(),
            memory: self.core.memory(),
        }
    }

    fn pool(&self, id: KindId, standing: Standing) -> PoolView {
        let now = self.clock.now();
        let counts = self.core.counts(id, now);
        let Make { kind, .. } = &self.makes[id.0];
        let (min, max, queue_max) = match standing {
            Standing::Present => (kind.min, kind.max, kind.queue.max),
            Standing::Removed => (0, 0, 0),
        };
        PoolView {
            id,
            kind: kind.name.clone(),
            standing,
            min,
            max,
            max_starting: kind.max_starting,
            starting: counts.starting,
            warm: counts.warm,
            bound: counts.bound,
            dying: counts.dying,
            outdated: counts.outdated,
            queued: counts.queued,
            room: counts.room,
            waits_for: counts.waits_for,
            queue_max,
            longest_wait: counts.waiting_since.map(|since| now.since(since)),
            backoff: counts.backoff_until.map(|until| until.since(now)),
            sandboxing: self.makes[id.0].sandboxing(),
        }
    }

    /// What the configuration in force has to say of sessions.
    fn tell_config(&self, views: &mut [SessionView]) {
        for view in views {
            if let Some(id) = self.config.kind_named(&view.kind) {
                view.sandboxing = view.sandboxing.or(Some(self.makes[id.0].sandboxing()));
                view.outdated = view
                    .config
                    .is_some_and(|config| self.core.is_outdated(id, config));
            }
        }
    }

    /// Of the newest incarnation of an id that has some output, or of the one of the generation `only`.
    pub(super) fn output(&self, id: &SessionId, only: Option<Generation>) -> Result<SessionOutput, NoOutput> {
        let live = self.core.session(id);
        let live = live.filter(|live| only.is_none_or(|only| live.session.generation == only));
        let stage = live.map(|live| live.stage);
        if let Some(Stage::Bound { worker }) = stage
            && let Some(logs) = self.crew.logs(worker)
        {
            return Ok(SessionOutput::Ring(logs));
        }
        let ended = self.records.output(id, only, |worker| self.crew.logs(worker));
        ended.ok_or(match stage {
            Some(_) => NoOutput::Waits,
            None => NoOutput::Unknown,
        })
    }

    fn view(&self, overview: &Overview) -> SessionView {
        let now = self.clock.now();
        let live = self.live.get(&overview.session);
        let snapshot = live.map(|session| session.holders.snapshot());
        self.records.view(
            overview,
            self.name_of(overview.kind),
            now,
            (
                snapshot.map_or(0, |s| s.holders),
                live.map_or(0, |session| session.holders.streams()),
                snapshot.map_or(0, |s| s.holds),
            ),
        )
    }
}
