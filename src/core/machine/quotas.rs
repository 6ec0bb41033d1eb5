//! Who may have sessions, and how many of how many they have.

use std::collections::HashMap;

use super::{Refusal, SessionId};

/// What a client over its quota is told to wait: nobody knows when one of its sessions ends.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// Counts what waits, starts or is bound, of each principal. Without principals there is nothing to count, and everybody
/// may.
#[derive(Debug, Default)]
pub(super) struct Quotas(Option<HashMap<String, Quota>>);

#[derive(Debug, Default)]
struct Quota {
    /// `None`: no limit.
    most: Option<usize>,
    taken: usize,
}

impl Quotas {
    /// Other principals and limits from now on. Who is still there keeps what it has, also beyond a lower limit.
    pub(super) fn set(&mut self, most: HashMap<String, Option<usize>>) {
        let mut before = self.0.take().unwrap_or_default();
        let quota = |(principal, most)| {
            let known = before.remove(&principal).unwrap_or_default();
            (principal, Quota { most, ..known })
        };
        self.0 = Some(most.into_iter().map(quota).collect());
    }

    /// Whether the session's principal is one of those that there are.
    pub(super) fn knows(&self, session: &SessionId) -> bool {
        let among = |known: &HashMap<String, Quota>| {
            session
                .principal()
                .is_some_and(|principal| known.contains_key(principal))
        };
        self.0.as_ref().is_none_or(among)
    }

    /// Whether a session of this name may be made.
    pub(super) fn admit(&self, session: &SessionId) -> Result<(), Refusal> {
        if !self.knows(session) {
            return Err(Refusal::Revoked);
        }
        let known = self.0.as_ref().zip(session.principal());
        match known.and_then(|(known, principal)| known.get(principal)) {
            Some(Quota {
                most: Some(most),
                taken,
            }) if taken >= most => Err(Refusal::QuotaExceeded {
                most: *most,
                retry_after: RETRY_AFTER,
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn take(&mut self, session: &SessionId) {
        if let Some(quota) = self.of(session) {
            quota.taken += 1;
        }
    }

    /// Of a principal that is gone there is nothing to count.
    pub(super) fn give_back(&mut self, session: &SessionId) {
        if let Some(quota) = self.of(session) {
            quota.taken -= 1;
        }
    }

    fn of(&mut self, session: &SessionId) -> Option<&mut Quota> {
        self.0.as_mut()?.get_mut(session.principal()?)
    }
}
