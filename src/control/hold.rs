//! A stream that holds a session for as long as it is open.
//!
//! The response body owns the hold: a client that leaves, however it leaves, drops the body, and with it
//! the hold. The kernel closes a UNIX socket with its process, so a dead client is always noticed.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::driver::{Attached, Hold};

use super::answer::line;
use super::views::{Held, HeldOrigin, HoldEnded};

const HEARTBEAT: Duration = Duration::from_secs(15);

struct Holding {
    hold: Hold,
    heartbeat: Interval,
    next: Next,
}

enum Next {
    First(HeldOrigin),
    Heartbeat,
    End,
}

/// A line that says what is held, an empty line every 15 s, and a last line if the session ends first.
pub(super) fn hold(attached: Attached) -> impl Stream<Item = Bytes> + Send {
    let origin = attached.origin.into();
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.reset();
    let holding = Holding {
        hold: attached.hold,
        heartbeat,
        next: Next::First(origin),
    };
    stream::unfold(holding, |mut holding| async {
        let line = holding.line().await?;
        Some((line, holding))
    })
}

impl Holding {
    async fn line(&mut self) -> Option<Bytes> {
        let session = self.hold.session();
        match std::mem::replace(&mut self.next, Next::Heartbeat) {
            Next::First(origin) => line(&Held {
                id: session.name.id.id().to_owned(),
                principal: session.name.id.principal().map(str::to_owned),
                generation: session.name.generation.0,
                kind: session.kind.name.clone(),
                worker: session.worker.to_string(),
                origin,
            })
            .ok(),
            Next::Heartbeat => tokio::select! {
                reason = session.wait_end() => {
                    self.next = Next::End;
                    line(&HoldEnded { ended: reason.code().to_owned(), detail: reason.to_string() }).ok()
                }
                _ = self.heartbeat.tick() => Some(Bytes::from_static(b"\n")),
            },
            Next::End => None,
        }
    }
}
