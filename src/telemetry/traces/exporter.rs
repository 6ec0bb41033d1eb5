//! The thread that sends spans: in batches, one at a time, each until it is taken or has become too old.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prometheus_client::metrics::counter::Counter;
use prost::Message;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};

use crate::causes;

use super::otlp::{
    ExportRequest, ExportResponse, KeyValue, Resource, ResourceSpans, Scope, ScopeSpans, Span,
};

/// Requests of a batch. OpenTelemetry's SDKs take as many spans.
const BATCH: usize = 512;
/// How long a span waits for others, so that not each is sent by itself.
const GATHER: Duration = Duration::from_secs(1);
/// For one try, from connecting to the answer's end.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two tries, at first and at most.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A batch that nobody takes for this long is dropped for the next one.
const PATIENCE: Duration = Duration::from_secs(30);
/// When herd ends.
const LAST: Duration = Duration::from_secs(1);
/// Of an answer, bytes.
const ANSWER_MAX: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    #[error("cannot find the certificates of this machine's authorities; install ca-certificates: {0}")]
    Roots(io::Error),
    #[error("cannot start the thread that sends traces: {0}")]
    Thread(io::Error),
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// It may be taken later.
    #[error("{why}")]
    ForNow { why: String, again: Option<Duration> },
    #[error("the receiver answers {0}")]
    ForGood(StatusCode),
}

/// The receiver.
#[derive(Debug)]
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: Uri,
    headers: HeaderMap,
}

impl Http {
    pub(super) fn new(endpoint: Uri, mut headers: HeaderMap) -> Result<Self, ReceiverError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(ANSWER));
        let builder = hyper_rustls::HttpsConnectorBuilder::new();
        let builder = match endpoint.scheme() == Some(&Scheme::HTTPS) {
            true => builder.with_native_roots().map_err(ReceiverError::Roots)?,
            // A host without any certificates can do this, too.
            false => builder.with_tls_config(
                rustls::ClientConfig::builder()
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth(),
            ),
        };
        let connector = builder.https_or_http().enable_http1().wrap_connector(tcp);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(concat!(
                "herd/",
                env!("CARGO_PKG_VERSION")
            )));
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            endpoint,
            headers,
        })
    }

    /// One try. How many of them it has not taken, and why, if it says so.
    async fn send(&self, batch: Bytes) -> Result<ExportResponse, Refused> {
        let for_now = |why: String| Refused::ForNow { why, again: None };
        let mut request = Request::new(Full::new(batch));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        *request.headers_mut() = self.headers.clone();
        let exchange = async {
            let answer = self.client.request(request).await;
            let answer = answer.map_err(|error| for_now(causes::told(&error)))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_MAX).collect().await;
            // By the protocol's specification these, and no others.
            match head.status.as_u16() {
                200..300 => Ok(body
                    .ok()
                    .and_then(|body| ExportResponse::decode(body.to_bytes()).ok())
                    .unwrap_or_default()),
                429 | 502 | 503 | 504 => {
                    let again = head.headers.get(RETRY_AFTER);
                    let seconds = again.and_then(|value| value.to_str().ok()?.parse().ok());
                    Err(Refused::ForNow {
                        why: format!("the receiver answers {}", head.status),
                        again: seconds.map(Duration::from_secs),
                    })
                }
                _ => Err(Refused::ForGood(head.status)),
            }
        };
        match timeout(ANSWER, exchange).await {
            Ok(result) => result,
            Err(_) => Err(for_now(format!("no answer within {ANSWER:?}"))),
        }
    }
}

/// Whether the receiver took the last batch: an outage is told once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    Failing,
}

#[derive(Debug)]
pub(super) struct Exporter {
    http: Http,
    resource: Resource,
    dropped: Counter,
    health: Health,
    /// What is being sent, and how many spans that is.
    under_way: Option<(Bytes, u64)>,
}

impl Exporter {
    pub(super) fn new(http: Http, service_name: &str, dropped: Counter) -> Self {
        let mut attributes = vec![
            KeyValue::new("service.name", service_name),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("process.pid", std::process::id()),
        ];
        if let Some(host) = nix::unistd::gethostname()
            .ok()
            .and_then(|host| host.into_string().ok())
        {
            attributes.push(KeyValue::new("host.name", host));
        }
        Self {
            http,
            resource: Resource { attributes },
            dropped,
            health: Health::Well,
            under_way: None,
        }
    }

    /// Until `end`; then what waits is tried once more.
    pub(super) async fn run(mut self, mut waiting: mpsc::Receiver<Vec<Span>>, end: &Notify) {
        let mut requests = Vec::with_capacity(BATCH);
        let serving = async {
            while gather(&mut waiting, &mut requests).await > 0 {
                let spans = requests.drain(..).flatten().collect();
                self.deliver(spans).await;
            }
        };
        tokio::select! {
            () = serving => {}
            () = end.notified() => {}
        }
        waiting.close();
        while let Ok(spans) = waiting.try_recv() {
            requests.push(spans);
        }
        let spans: Vec<Span> = requests.into_iter().flatten().collect();
        let rest = (!spans.is_empty()).then(|| (spans.len() as u64, self.batch(spans)));
        // The one that was under way may come twice; better than not at all.
        let first = self.under_way.take().map(|(batch, count)| (count, batch));
        for (count, batch) in first.into_iter().chain(rest) {
            let sent = timeout(LAST / 2, self.http.send(batch)).await;
            if !matches!(sent, Ok(Ok(_))) {
                self.dropped.inc_by(count);
            }
        }
    }

    /// Tries until it is taken, or is refused for good or for too long.
    async fn deliver(&mut self, spans: Vec<Span>) {
        let count = spans.len() as u64;
        let batch = self.batch(spans);
        self.under_way = Some((batch.clone(), count));
        let deadline = Instant::now() + PATIENCE;
        let mut pause = PAUSE;
        loop {
            let refused = match self.http.send(batch.clone()).await {
                Ok(taken) => {
                    self.under_way = None;
                    return self.delivered(&taken);
                }
                Err(refused) => refused,
            };
            if self.health == Health::Well {
                tracing::warn!(
                    receiver = self.http.endpoint.authority().map(Authority::as_str),
                    error = %refused,
                    "the receiver of traces takes no spans; those that find no room are dropped until it does"
                );
                self.health = Health::Failing;
            }
            let wait = match refused {
                Refused::ForNow { again, .. } => again.unwrap_or(pause).min(PAUSE_MAX),
                Refused::ForGood(_) => break,
            };
            if Instant::now() + wait > deadline {
                break;
            }
            sleep(wait).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
        self.under_way = None;
        self.dropped.inc_by(count);
    }

    fn delivered(&mut self, taken: &ExportResponse) {
        if self.health == Health::Failing {
            tracing::info!("the receiver of traces takes spans again");
            self.health = Health::Well;
        }
        if let Some(partial) = &taken.partial_success
            && partial.rejected_spans > 0
        {
            self.dropped
                .inc_by(u64::try_from(partial.rejected_spans).unwrap_or_default());
            tracing::warn!(
                spans = partial.rejected_spans,
                why = partial.error_message,
                "the receiver of traces rejects spans"
            );
        }
    }

    fn batch(&self, spans: Vec<Span>) -> Bytes {
        let scope = Scope {
            name: "herd".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let request = ExportRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope),
                    spans,
                }],
            }],
        };
        request.encode_to_vec().into()
    }
}

/// Waits for the first, and then a moment for others. How many there are; none: nobody will put any.
async fn gather(waiting: &mut mpsc::Receiver<Vec<Span>>, requests: &mut Vec<Vec<Span>>) -> usize {
    if waiting.recv_many(requests, BATCH).await == 0 {
        return 0;
    }
    let more = async {
        while requests.len() < BATCH && waiting.recv_many(requests, BATCH - requests.len()).await > 0 {}
    };
    // Late ones are in the next batch.
    let _ = timeout(GATHER, more).await;
    requests.len()
}
