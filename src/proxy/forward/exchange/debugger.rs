//! `webSocketDebuggerUrl`: a browser that is told its own name as `Host` (`host_header: worker`) names itself by it in what
//! it tells of its debugger, and a client could not come back by that.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response};
use http_body_util::{BodyExt, Limited};

use super::super::Failure;
use super::{Exchange, own_host};
use crate::config::HostHeader;
use crate::proxy::body::{Answer, Body, Cut, Served, WorkerBody};
use crate::proxy::code::{Code, Problem};
use crate::proxy::http1::answer::Wanted;
use crate::proxy::thread::ended;
use crate::proxy::upstream::{Bound, CRASH_NEWS};

/// Largest answer that is rewritten.
const MAX_REWRITE: usize = 1 << 20;

impl Exchange {
    /// The worker's own authority, if this answer may contain it.
    pub(super) fn debugger_rewrite(
        &self,
        bound: &Bound,
        parts: &http::response::Parts,
        coming: &Answer,
        wanted: Wanted,
    ) -> Option<String> {
        let json = |v: &HeaderValue| v.as_bytes().to_ascii_lowercase().starts_with(b"application/json");
        let small = coming
            .size_hint()
            .upper()
            .is_some_and(|n| n <= MAX_REWRITE as u64);
        (bound.session.kind.host_header == HostHeader::Worker
            && wanted == Wanted::Whole
            && small
            && self.host.is_some()
            && parts.headers.get(CONTENT_TYPE).is_some_and(json))
        .then(|| own_host(bound).to_str().unwrap_or_default().to_owned())
    }

    pub(super) async fn rewrite(
        &self,
        bound: &Bound,
        mut parts: http::response::Parts,
        mut body: WorkerBody,
        served: Served,
        own: String,
    ) -> Result<Response<Body>, Failure> {
        let whole = match Limited::new(&mut body, MAX_REWRITE).collect().await {
            Ok(whole) => whole.to_bytes(),
            Err(cut) => {
                let reason = match cut.downcast_ref() {
                    Some(Cut::SessionEnded(reason)) => Some(reason.clone()),
                    _ => bound.session.wait_end_for(CRASH_NEWS).await,
                };
                let problem = match reason {
                    Some(reason) => ended(&reason),
                    None => Problem::new(
                        Code::WorkerConnectionLost,
                        "the worker lives, but its answer broke off",
                    ),
                };
                return Err(Failure { problem, served });
            }
        };
        let bytes = match (
            std::str::from_utf8(&whole),
            self.host.as_ref().map(|h| h.to_str()),
        ) {
            (Ok(text), Some(Ok(host))) if text.contains("webSocketDebuggerUrl") => {
                Bytes::from(text.replace(&format!("\"ws://{own}/"), &format!("\"ws://{host}/")))
            }
            _ => whole,
        };
        parts
            .headers
            .insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        Ok(Response::from_parts(parts, Body::own(bytes, served)))
    }
}
