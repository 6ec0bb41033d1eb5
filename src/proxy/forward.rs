//! One request: from its id to the last byte of its answer.
//!
//! ```text
//! checks → id, kind → claim a session (its hold) → send to the worker ─ 101 → tunnel (a stream hold)
//!                                                                     └ else → answer, hold until its last byte
//! ```
//! Nothing is sent twice: only a request of which not one byte was written is tried on another connection.

mod asked;
mod client;
mod exchange;

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Instant;

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use self::asked::Asked;
pub(crate) use self::client::{Client, Upgrade};
use super::body::{Body, Fate, Served, Upload};
use super::code::{Code, Problem};
use super::record::Record;
use super::thread::{Refused, Thread};
use crate::core::SessionId;

/// Answers one request. Every outcome is an answer; dropping the future is the client's leaving.
///
/// Not an `async fn`: what need not wait is done in this call, so that what hyper keeps, and moves several times, of a
/// request that is with its worker is small.
pub(crate) fn serve(
    thread: Rc<Thread>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> {
    let (config, access) = thread.in_force();
    client.old.set(request.version() < Version::HTTP_11);
    let upload = Rc::default();
    let record = Record::of(&thread, &config, client.as_peer(), &request, &upload);
    let served = Served::new(client.line.clone(), record.clone());
    let mut story = Story {
        thread: Rc::clone(&thread),
        began: Instant::now(),
        session: String::new(),
        status: None,
        code: None,
        upload,
        record,
    };
    // Only an error of herd's own needs them. There is hardly ever a second one, so this allocates nothing.
    let mut accepts = request.headers().get_all(ACCEPT).iter().cloned();
    let accept = accepts.next();
    let more: Vec<_> = accepts.collect();
    let begun = match Asked::read(
        &thread,
        &client,
        (Rc::clone(&config), access),
        request,
        &mut story,
    ) {
        Ok(asked) => begin(&thread, &client, asked, &story.session, served),
        Err(problem) => Begun::Refused(Failure { problem, served }),
    };
    async move {
        // All of it: its end is the request's.
        let mut story = story;
        let result = match begun {
            Begun::Sent(sent) => sent.await,
            Begun::Waiting(waiting) => waiting.await,
            Begun::Refused(failure) => Err(failure),
        };
        let mut response = match result {
            Ok(response) => response,
            Err(Failure { problem, served }) => {
                story.code = Some(problem.code);
                let mut headers = HeaderMap::new();
                for value in accept.into_iter().chain(more) {
                    headers.append(ACCEPT, value);
                }
                problem
                    .into_response(&headers)
                    .map(|bytes| Body::own(bytes, served))
            }
        };
        if story.code.is_some()
            && !story.session.is_empty()
            && let Ok(id) = HeaderValue::from_str(story.id())
            && let Some(name) = config.session.headers.first()
        {
            response.headers_mut().insert(name, id);
        }
        story.status = Some(response.status());
        Ok(response)
    }
}

/// Says how a request went, also when its client leaves before the answer.
struct Story {
    thread: Rc<Thread>,
    began: Instant,
    /// With its principal.
    session: String,
    status: Option<StatusCode>,
    code: Option<Code>,
    upload: Rc<Upload>,
    record: Option<Rc<Record>>,
}

impl Story {
    /// As the client knows it.
    fn id(&self) -> &str {
        SessionId::parts(&self.session).1
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        let (status, code) = match self.status {
            // Whatever the answer was, there is nobody left to read it.
            Some(status) if self.upload.fate.get() != Fate::BrokenOff => (status.as_u16(), self.code),
            _ => (499, None),
        };
        self.thread.traffic.answered(status, self.began.elapsed());
        let said = code.map_or("", Code::as_str);
        tracing::debug!(session = %self.session, status, code = said, "request");
        if let Some(record) = &self.record {
            record.answered(status, code, std::mem::take(&mut self.session));
        }
    }
}

struct Failure {
    problem: Problem,
    served: Served,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Failure>>>>;

/// How far a request has come without waiting.
enum Begun<S> {
    /// It is with its worker, or at least on the way to it.
    Sent(S),
    /// Boxed, like everything that few requests need.
    Waiting(Answering),
    Refused(Failure),
}

/// Sends the request on its way, if its session is known here.
fn begin(
    thread: &Rc<Thread>,
    client: &Rc<Client>,
    mut asked: Asked,
    id: &str,
    served: Served,
) -> Begun<impl Future<Output = Result<Response<Body>, Failure>> + use<>> {
    match thread.claim_known(id, asked.kind) {
        Some(Ok(claim)) => exchange::go(asked, thread, client, claim, served),
        Some(Err(refused)) => {
            let problem = refused.problem(&asked.config, client.local(asked.fields));
            Begun::Refused(Failure { problem, served })
        }
        None => {
            let (thread, client, id) = (Rc::clone(thread), Rc::clone(client), id.to_owned());
            Begun::Waiting(Box::pin(async move {
                let local = client.local(asked.fields);
                match asked.claim(&thread, &id).await {
                    Ok(claim) => match exchange::go(asked, &thread, &client, claim, served) {
                        Begun::Sent(sent) => sent.await,
                        Begun::Waiting(waiting) => waiting.await,
                        Begun::Refused(failure) => Err(failure),
                    },
                    Err(refused) => {
                        if let (Some(record), Refused::NotAttached(refused)) = (served.record(), &refused) {
                            record.not_attached(refused);
                        }
                        let problem = refused.problem(&asked.config, local);
                        Err(Failure { problem, served })
                    }
                }
            }))
        }
    }
}
