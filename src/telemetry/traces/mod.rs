//! Spans of the data plane's requests, on their way to an OpenTelemetry receiver.
//!
//! ```text
//! data-plane threads ─ put ─▶ requests' spans that wait, so many and no more ─▶ one thread ─ OTLP over HTTP ─▶ receiver
//! ```
//! Nobody waits for the receiver: spans that find no room, or that it does not take in time, are counted and left out.
//! What a request's spans say is the data plane's matter.

mod exporter;
pub mod otlp;

use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, Uri};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, mpsc};

pub use exporter::ReceiverError;
use exporter::{Exporter, Http};

use super::LAST_LINES;

/// Requests whose spans wait. OpenTelemetry's SDKs have as many spans wait.
const WAITING_MAX: usize = 2048;

/// Where spans go.
#[derive(Debug)]
pub struct Receiver {
    pub endpoint: Uri,
    /// Beside those that the protocol asks for.
    pub headers: HeaderMap,
    pub service_name: String,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Traces {
    waiting: mpsc::Sender<Vec<otlp::Span>>,
    dropped: Counter,
    end: Arc<Notify>,
    /// Closes when the thread is done.
    done: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Traces {
    /// Starts the thread that sends them. `dropped` counts spans that were left out.
    pub fn start(receiver: Receiver, dropped: Counter) -> Result<Self, ReceiverError> {
        let http = Http::new(receiver.endpoint, receiver.headers)?;
        let (waiting, spans) = mpsc::channel(WAITING_MAX);
        let end = Arc::new(Notify::new());
        let (running, done) = std::sync::mpsc::channel();
        let exporter = Exporter::new(http, &receiver.service_name, dropped.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ReceiverError::Thread)?;
        let ending = Arc::clone(&end);
        std::thread::Builder::new()
            .name("traces".to_owned())
            .spawn(move || {
                runtime.block_on(exporter.run(spans, &ending));
                drop(running);
            })
            .map_err(ReceiverError::Thread)?;
        Ok(Self {
            waiting,
            dropped,
            end,
            done: Mutex::new(done),
        })
    }

    /// Takes all spans of one request.
    pub fn put(&self, spans: Vec<otlp::Span>) {
        let count = spans.len() as u64;
        if self.waiting.try_send(spans).is_err() {
            self.dropped.inc_by(count);
        }
    }

    /// What was put is sent, unless that takes too long. Nothing may be put any more.
    pub fn finish(&self) {
        self.end.notify_one();
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done.recv_timeout(LAST_LINES) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the receiver of traces does not take the last spans in time");
        }
    }
}
