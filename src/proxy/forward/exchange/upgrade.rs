//! Requests that become tunnels: an upgrade over HTTP/1.1, a WebSocket over HTTP/2 (RFC 8441). The tunnel
//! begins only after a 101 of the worker's that is for what was asked; any other answer is passed on as it is, unless it meant
//! something else to the client: to `CONNECT` every 2xx says that there is a tunnel.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderMap, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::super::{Failure, Upgrade};
use super::Exchange;
use crate::core::HolderKind;
use crate::driver::Hold;
use crate::proxy::body::{Answer, Body, ClientBody, Served, Upload};
use crate::proxy::code::{Code, Problem};
use crate::proxy::fields::{self, Toward};
use crate::proxy::http1::answer::Wanted;
use crate::proxy::send::shake_hands;
use crate::proxy::thread::{Claim, ended};
use crate::proxy::tunnel::{self, Talk};
use crate::proxy::upstream::WorkerIo;
use crate::proxy::websocket_over_h2;

impl Exchange {
    pub(super) async fn upgrade(
        self,
        request: Request<ClientBody>,
        claim: Claim,
        protocol: HeaderValue,
        served: Served,
    ) -> Result<Response<Body>, Failure> {
        let (parts, _) = request.into_parts();
        let mut head = self.head(parts, &claim.bound);
        let key = head.headers.get(SEC_WEBSOCKET_KEY).cloned();
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, protocol.clone());
        let Switched {
            mut response,
            worker,
            claim,
            served,
        } = match self.ask(head, claim, served).await? {
            Asked::Switched(switched) => switched,
            Asked::Answered(answered) => return self.pass_on(answered).await,
        };
        let Some(switched) = switched_to(response.headers(), &protocol) else {
            let problem = Problem::new(
                Code::BadWorkerAnswer,
                "the worker's 101 is not for the protocol that was asked for",
            );
            return Err(Failure { problem, served });
        };
        let talk = match switched.as_bytes().eq_ignore_ascii_case(b"websocket") {
            true => Talk::WebSocket,
            false => Talk::Other,
        };
        // Who sends no key asks for no proof.
        let proven = |key: HeaderValue| websocket_over_h2::accepted(response.headers(), key.as_bytes());
        if talk == Talk::WebSocket && !key.is_none_or(proven) {
            let problem = wrong_accept();
            return Err(Failure { problem, served });
        }
        let hold = match stream_hold(&claim).await {
            Ok(hold) => hold,
            Err(problem) => return Err(Failure { problem, served }),
        };
        let headers = response.headers_mut();
        fields::strip(headers, Toward::Client);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, switched);
        self.label.put(&self.config, &claim.bound, headers);
        let record = served.never();
        if let Some(record) = &record {
            record.becomes_tunnel(talk);
        }
        *self.client.upgrade.borrow_mut() = Some(Upgrade {
            worker,
            talk,
            hold,
            record,
        });
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(|_| Body::own(Bytes::new(), Served::default())))
    }

    pub(super) async fn websocket_over_h2(
        self,
        mut request: Request<ClientBody>,
        claim: Claim,
        served: Served,
    ) -> Result<Response<Body>, Failure> {
        let stream = hyper::upgrade::on(&mut request);
        let (parts, _) = request.into_parts();
        let mut head = self.head(parts, &claim.bound);
        let key = websocket_over_h2::ask(&mut head);
        let Switched {
            mut response,
            worker,
            claim,
            served,
        } = match self.ask(head, claim, served).await? {
            Asked::Switched(switched) => switched,
            Asked::Answered(answered) if answered.response.status().is_success() => {
                let problem = Problem::new(
                    Code::BadWorkerAnswer,
                    format!(
                        "the worker answered {} to a WebSocket's handshake, not 101",
                        answered.response.status().as_u16()
                    ),
                );
                let served = answered.served;
                return Err(Failure { problem, served });
            }
            Asked::Answered(answered) => return self.pass_on(answered).await,
        };
        if !websocket_over_h2::accepted(response.headers(), key.as_bytes()) {
            let problem = wrong_accept();
            return Err(Failure { problem, served });
        }
        let hold = match stream_hold(&claim).await {
            Ok(hold) => hold,
            Err(problem) => return Err(Failure { problem, served }),
        };
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        fields::strip(headers, Toward::Client);
        headers.remove("sec-websocket-accept");
        self.label.put(&self.config, &claim.bound, headers);
        let traffic = Arc::clone(&self.thread.traffic);
        let record = served.record().cloned();
        if let Some(record) = &record {
            record.becomes_tunnel(Talk::WebSocket);
        }
        tokio::task::spawn_local(async move {
            // Either failing drops the other side and the hold.
            let (Ok(client), Ok((worker, first))) = (stream.await, worker.await) else {
                return;
            };
            let client = hyper_util::rt::TokioIo::new(client);
            let _open = traffic.tunnel();
            let (end, carried) =
                tunnel::run(client, Bytes::new(), worker, first, Talk::WebSocket, hold).await;
            tracing::debug!(?end, "tunnel closed");
            if let Some(record) = record {
                record.tunnel_ended(end, carried);
            }
        });
        Ok(response.map(|_| Body::own(Bytes::new(), served)))
    }

    /// Asks the worker to switch. A client that dies meanwhile counts as a stream that closed.
    async fn ask(
        &self,
        head: http::request::Parts,
        mut claim: Claim,
        served: Served,
    ) -> Result<Asked, Failure> {
        let request = Request::from_parts(head, ClientBody::empty());
        if let Some(record) = served.record() {
            record.sent();
        }
        claim.hold.expect_client();
        let shaken = shake_hands(&claim.bound, request).await;
        claim.hold.answered();
        if let Some(record) = served.record() {
            record.worker_answered();
        }
        let (response, worker) = match shaken {
            Ok(shaken) => shaken,
            Err(lost) => {
                let problem = lost.problem(&claim.bound, &Upload::default()).await;
                return Err(Failure { problem, served });
            }
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Asked::Switched(Switched {
                response,
                worker,
                claim,
                served,
            }));
        }
        Ok(Asked::Answered(Answered {
            response,
            claim,
            served,
        }))
    }

    async fn pass_on(&self, answered: Answered) -> Result<Response<Body>, Failure> {
        let Answered {
            response,
            claim: Claim { bound, hold, .. },
            served,
        } = answered;
        let response = response.map(Answer::Hyper);
        self.answer(response, &bound, hold, served, Wanted::Whole).await
    }
}

enum Asked {
    Switched(Switched),
    Answered(Answered),
}

/// A worker that has answered something else.
struct Answered {
    response: Response<Incoming>,
    claim: Claim,
    served: Served,
}

/// A worker that has answered 101.
struct Switched {
    response: Response<Incoming>,
    worker: oneshot::Receiver<(WorkerIo, Bytes)>,
    claim: Claim,
    served: Served,
}

/// What the worker has switched to: one of the protocols that were asked for (RFC 9110 section 7.8).
fn switched_to(answered: &HeaderMap, asked: &HeaderValue) -> Option<HeaderValue> {
    let mut switched = answered.get_all(UPGRADE).iter();
    match (switched.next(), switched.next()) {
        (Some(one), None) if !one.is_empty() && fields::names(asked, one.as_bytes()) => Some(one.clone()),
        _ => None,
    }
}

fn wrong_accept() -> Problem {
    Problem::new(
        Code::BadWorkerAnswer,
        "the worker's Sec-WebSocket-Accept is wrong",
    )
}

/// Taken while the request still holds the session, so that nothing ends between.
async fn stream_hold(claim: &Claim) -> Result<Hold, Problem> {
    match claim.bound.session.hold(HolderKind::Stream) {
        Some(hold) => Ok(hold),
        None => Err(ended(&claim.bound.session.wait_end().await)),
    }
}
