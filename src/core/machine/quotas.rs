//! How many sessions principals have, of how many they may have.

use std::collections::HashMap;

use super::{Refusal, SessionId};

/// What a client over its quota is told to wait: nobody knows when one of its sessions ends.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// Counts what waits, starts or is bound, of the principals that have a quota.
#[derive(Debug, Default)]
pub(super) struct Quotas(HashMap<String, Quota>);

#[derive(Debug)]
struct Quota {
    most: usize,
    taken: usize,
}

impl Quotas {
    pub(super) fn new(most: HashMap<String, usize>) -> Self {
        let quota = |(principal, most)| (principal, Quota { most, taken: 0 });
        Self(most.into_iter().map(quota).collect())
    }

    /// Whether a session of this name may be made.
    pub(super) fn admit(&self, session: &SessionId) -> Result<(), Refusal> {
        match session.principal().and_then(|principal| self.0.get(principal)) {
            Some(quota) if quota.taken >= quota.most => Err(Refusal::QuotaExceeded {
                most: quota.most,
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

    pub(super) fn give_back(&mut self, session: &SessionId) {
        if let Some(quota) = self.of(session) {
            quota.taken -= 1;
        }
    }

    fn of(&mut self, session: &SessionId) -> Option<&mut Quota> {
        self.0.get_mut(session.principal()?)
    }
}
