//! Which session answered, whether it was new, and how long it took to come.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::Config;
use crate::driver::{Origin, Waited};
use crate::proxy::fields::X_SESSION_ID;
use crate::proxy::thread::Claim;
use crate::proxy::upstream::Bound;

static X_HERD_SESSION_STATE: HeaderName = HeaderName::from_static("x-herd-session-state");
static SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What every answer says of its session.
pub(super) struct Label {
    origin: Origin,
    waited: Waited,
}

impl Label {
    pub(super) fn of(claim: &Claim) -> Self {
        Self {
            origin: claim.origin,
            waited: claim.waited,
        }
    }

    pub(super) fn put(&self, config: &Config, bound: &Bound, headers: &mut HeaderMap) {
        let name = config.session.headers.first();
        headers.insert(name.unwrap_or(&X_SESSION_ID), bound.id.clone());
        headers.insert(
            &X_HERD_SESSION_STATE,
            HeaderValue::from_static(match self.origin {
                Origin::Created => "created",
                Origin::Reused => "reused",
            }),
        );
        headers.append(&SERVER_TIMING, self.timing());
    }

    fn timing(&self) -> HeaderValue {
        let Waited { queued, starting } = self.waited;
        if queued.is_zero() && starting.is_zero() {
            return HeaderValue::from_static("queue;dur=0, start;dur=0");
        }
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        let text = format!("queue;dur={:.1}, start;dur={:.1}", ms(queued), ms(starting));
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("queue;dur=0"))
    }
}
