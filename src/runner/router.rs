//! Which path does what.

use std::cell::RefCell;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::answer::{self, Answer};
use super::command::{CommandLine, Graveyard};
use super::echo;

/// Largest value, bytes.
const VALUE_LIMIT: usize = 1 << 20;
/// Largest description of a command, its stdin included, bytes.
const COMMAND_LIMIT: usize = 16 << 20;

/// What the runner keeps between requests.
#[derive(Debug, Default)]
pub(super) struct Runner {
    value: RefCell<Option<Bytes>>,
    graveyard: Graveyard,
}

impl Runner {
    pub(super) fn graveyard(&self) -> &Graveyard {
        &self.graveyard
    }

    pub(super) async fn answer(&self, request: Request<Incoming>, upgrade: &echo::Slot) -> Answer {
        let method = request.method().clone();
        match request.uri().path() {
            "/" => match method {
                Method::GET | Method::HEAD => answer::text(StatusCode::OK, about(&request)),
                _ => answer::method_not_allowed("GET, HEAD"),
            },
            "/healthz" => match method {
                Method::GET | Method::HEAD => answer::text(StatusCode::OK, "ok\n"),
                _ => answer::method_not_allowed("GET, HEAD"),
            },
            "/v1/value" => match method {
                Method::GET | Method::HEAD => self.value(),
                Method::PUT => self.set_value(request.into_body()).await,
                Method::DELETE => self.forget_value(),
                _ => answer::method_not_allowed("GET, HEAD, PUT, DELETE"),
            },
            "/v1/run" => match method {
                Method::POST => self.run(request.into_body()).await,
                _ => answer::method_not_allowed("POST"),
            },
            "/v1/echo" => match method {
                Method::GET => echo::accept(request, upgrade),
                _ => answer::method_not_allowed("GET"),
            },
            path => answer::problem(
                StatusCode::NOT_FOUND,
                &format!("there is nothing at {path}; GET / tells what can be tried"),
            ),
        }
    }

    fn value(&self) -> Answer {
        match &*self.value.borrow() {
            Some(value) => answer::bytes(value.clone()),
            None => answer::problem(
                StatusCode::NOT_FOUND,
                "this worker keeps no value yet; PUT one to /v1/value first",
            ),
        }
    }

    async fn set_value(&self, body: Incoming) -> Answer {
        match collect(body, VALUE_LIMIT).await {
            Ok(value) => {
                self.value.replace(Some(value));
                answer::empty(StatusCode::NO_CONTENT)
            }
            Err(refused) => refused,
        }
    }

    fn forget_value(&self) -> Answer {
        self.value.replace(None);
        answer::empty(StatusCode::NO_CONTENT)
    }

    async fn run(&self, body: Incoming) -> Answer {
        let body = match collect(body, COMMAND_LIMIT).await {
            Ok(body) => body,
            Err(refused) => return refused,
        };
        match CommandLine::parse(&body).and_then(|command| command.start(&self.graveyard)) {
            Ok(running) => running.into_answer(),
            Err(error) => answer::problem(error.status(), &error.to_string()),
        }
    }
}

/// The whole body, or the answer that refuses it.
async fn collect(body: Incoming, limit: usize) -> Result<Bytes, Answer> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(answer::problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            &format!("the body is larger than the limit of {limit} bytes"),
        )),
        Err(error) => Err(answer::problem(
            StatusCode::BAD_REQUEST,
            &format!("the body could not be read: {error}"),
        )),
    }
}

/// Commands that work from where the reader is: through herd, if the request came through it.
fn about(request: &Request<Incoming>) -> String {
    let host = request
        .headers()
        .get(http::header::HOST)
        .and_then(|host| host.to_str().ok());
    // Whatever the Host header says is printed as part of commands to paste: plain hosts only.
    let host = host
        .filter(|h| {
            h.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'-' | b'[' | b']'))
        })
        .filter(|h| !h.is_empty())
        .unwrap_or("localhost:8080");
    let id = request
        .headers()
        .get("x-session-id")
        .and_then(|id| id.to_str().ok());
    let id = match id.map(|id| crate::core::SessionId::check(id.as_bytes())) {
        Some(Ok(id)) => id,
        _ => "alice",
    };
    let pid = std::process::id();
    format!(
        "\
This is `herd runner`, the worker that comes with herd; it sees itself as process {pid}.
It serves one session: another X-Session-ID reaches another process with its own memory.

Try:
  curl -H 'X-Session-ID: {id}' -X PUT -d 'remember me' http://{host}/v1/value
  curl -H 'X-Session-ID: {id}' http://{host}/v1/value
  curl -H 'X-Session-ID: {id}' -N http://{host}/v1/run -d '{{\"cmd\": [\"sh\", \"-c\", \"echo hello; sleep 1; id\"]}}'
  herd ps

  GET|PUT|DELETE /v1/value  one value in this process's memory, up to 1 MiB
  POST /v1/run              {{\"cmd\": [...], \"env\": {{}}, \"cwd\": \"...\", \"stdin\": \"...\"}}, output streamed line by line
  GET /v1/echo              a WebSocket that sends everything back; while it is open, it holds the session
  GET /healthz              200
"
    )
}
