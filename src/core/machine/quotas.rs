//! Who may have sessions, and how many: of each principal, what waits, starts or is bound, and how often it makes a new one.

use std::collections::HashMap;
use std::time::Duration;

use super::super::{Allowance, Bucket, Quota, Rate};
use super::{Moment, Refusal, SessionId};

/// What a client over its number of sessions is told to wait: nobody knows when one of them ends.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One account for each principal. Without principals there is nothing to count, and everybody may.
#[derive(Debug, Default)]
pub(super) struct Quotas(Option<HashMap<String, Account>>);

#[derive(Debug, Default)]
struct Account {
    /// `None`: no limit.
    most: Option<usize>,
    taken: usize,
    pace: Option<Pace>,
}

/// At which new sessions are made.
#[derive(Debug)]
struct Pace {
    bucket: Bucket,
    /// When it will be full, since herd's start.
    full_at: u64,
}

impl Quotas {
    /// Other principals and limits from now on. Who is still there keeps what it has, also beyond a lower limit.
    pub(super) fn set(&mut self, allowances: HashMap<String, Allowance>, now: Moment) {
        let mut before = self.0.take().unwrap_or_default();
        let account = |(principal, allowance): (String, Allowance)| {
            let known = before.remove(&principal).unwrap_or_default();
            let account = Account {
                most: allowance.sessions,
                taken: known.taken,
                pace: allowance
                    .session_rate
                    .map(|rate| Pace::after(known.pace.as_ref(), rate, now)),
            };
            (principal, account)
        };
        self.0 = Some(allowances.into_iter().map(account).collect());
    }

    /// Whether the session's principal is one of those that there are.
    pub(super) fn knows(&self, session: &SessionId) -> bool {
        self.0.is_none() || self.account(session).is_some()
    }

    /// Whether a session of this name may be made.
    pub(super) fn admit(&self, session: &SessionId, now: Moment) -> Result<(), Refusal> {
        if !self.knows(session) {
            return Err(Refusal::Revoked);
        }
        let Some(account) = self.account(session) else {
            return Ok(());
        };
        let exceeded = |quota, retry_after| Refusal::QuotaExceeded { quota, retry_after };
        if let Some(most) = account.most
            && account.taken >= most
        {
            return Err(exceeded(Quota::Sessions { most }, RETRY_AFTER));
        }
        match account.pace.as_ref().map(|pace| pace.one_more(now)) {
            Some(Err(wait)) => Err(exceeded(Quota::SessionRate, wait)),
            _ => Ok(()),
        }
    }

    /// A session that was [`admit`](Self::admit)ted is made.
    pub(super) fn take(&mut self, session: &SessionId, now: Moment) {
        let Some(account) = self.account_mut(session) else {
            return;
        };
        account.taken += 1;
        if let Some(pace) = &mut account.pace
            && let Ok(full_at) = pace.one_more(now)
        {
            pace.full_at = full_at;
        }
    }

    /// Its place is free again; that it was made is not undone. Of a principal that is gone there is nothing to count.
    pub(super) fn give_back(&mut self, session: &SessionId) {
        if let Some(account) = self.account_mut(session) {
            account.taken -= 1;
        }
    }

    fn account(&self, session: &SessionId) -> Option<&Account> {
        self.0.as_ref()?.get(session.principal()?)
    }

    fn account_mut(&mut self, session: &SessionId) -> Option<&mut Account> {
        self.0.as_mut()?.get_mut(session.principal()?)
    }
}

impl Pace {
    /// What was used up stays so.
    fn after(before: Option<&Self>, rate: Rate, now: Moment) -> Self {
        let bucket = Bucket::of(rate);
        let full_at = before.map_or(0, |pace| {
            bucket.after(pace.bucket, pace.full_at, Bucket::nanos(now.0))
        });
        Self { bucket, full_at }
    }

    /// When it is full again after one more. `Err`: after this time there may be one.
    fn one_more(&self, now: Moment) -> Result<u64, Duration> {
        self.bucket.take(self.full_at, Bucket::nanos(now.0))
    }
}
