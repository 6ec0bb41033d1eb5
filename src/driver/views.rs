//! What the driver shows of what it knows: copies, made between two deeds.

use std::sync::Arc;

use super::handle::{PoolView, PoolsView, SessionView};
use super::{Crew, Driver};
use crate::config::Kind;
use crate::core::{KindId, Overview, SessionId, Stage};

impl<C: Crew> Driver<C> {
    /// Live sessions, oldest first; with `ended`, the remembered ended ones before them.
    pub(super) fn list(&self, ended: bool) -> Vec<SessionView> {
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
        if ended {
            views.splice(0..0, self.records.ended());
        }
        self.tell_sandboxing(&mut views);
        views
    }

    /// Every remembered incarnation of an id, newest first.
    pub(super) fn show(&self, id: &SessionId) -> Vec<SessionView> {
        let current = self.core.session(id).map(|overview| self.view(&overview));
        let mut views: Vec<SessionView> = self.records.of(id);
        views.extend(current);
        views.sort_by_key(|view| std::cmp::Reverse(view.session.generation));
        views.dedup_by(|a, b| a.session == b.session);
        self.tell_sandboxing(&mut views);
        views
    }

    pub(super) fn pools(&self) -> PoolsView {
        let now = self.clock.now();
        let view = |(index, kind): (usize, &Arc<Kind>)| {
            let counts = self.core.counts(KindId(index), now);
            PoolView {
                kind: kind.name.clone(),
                min: kind.min,
                max: kind.max,
                starting: counts.starting,
                warm: counts.warm,
                bound: counts.bound,
                dying: counts.dying,
                queued: counts.queued,
                queue_max: kind.queue.max,
                longest_wait: counts.waiting_since.map(|since| now.since(since)),
                backoff: counts.backoff_until.map(|until| until.since(now)),
                sandboxing: self.crew.sandboxing(index),
            }
        };
        PoolsView {
            kinds: self.config.kinds.iter().enumerate().map(view).collect(),
            draining: self.core.is_draining(),
        }
    }

    fn tell_sandboxing(&self, views: &mut [SessionView]) {
        for view in views {
            if let Some(kind) = self.config.kind_named(&view.kind) {
                view.sandboxing = self.crew.sandboxing(kind.0);
            }
        }
    }

    fn view(&self, overview: &Overview) -> SessionView {
        let now = self.clock.now();
        let live = self.live.get(&overview.session);
        let snapshot = live.map(|session| session.holders.snapshot());
        self.records.view(
            overview,
            &self.config.kind(overview.kind).name,
            now,
            (
                snapshot.map_or(0, |s| s.holders),
                live.map_or(0, |session| session.holders.streams()),
                snapshot.map_or(0, |s| s.holds),
            ),
        )
    }
}
