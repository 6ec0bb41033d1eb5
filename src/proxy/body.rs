//! The bodies that pass through: no boxes, no buffering.

use std::cell::Cell;
use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::fields::{Toward, without_forbidden_trailers};
use super::gate::Line;
use super::http1::{Broken, Http1};
use super::record::Record;
use super::upstream::{Bound, CUT_NEWS};
use crate::config::Config;
use crate::core::EndReason;
use crate::driver::{Hold, Session};

/// How long a client that expects `100 Continue` is kept waiting for the worker's word. Workers that do
/// not know the expectation just read (RFC 9110 section 10.1.1).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);
/// Bytes that a request's body may take while it waits for its worker.
const READ_AHEAD: usize = 64 * 1024;

/// Why a body was cut short.
#[derive(Debug)]
pub(crate) enum Cut {
    Worker(Broken),
    /// As hyper tells it.
    Hyper(hyper::Error),
    SessionEnded(EndReason),
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker(_) | Self::Hyper(_) => f.write_str("the worker's body was cut short"),
            Self::SessionEnded(reason) => write!(f, "the session ended: {reason}"),
        }
    }
}

impl StdError for Cut {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Hyper(e) => Some(e),
            Self::Worker(e) => Some(e),
            Self::SessionEnded(_) => None,
        }
    }
}

/// What is known of a request's body, also when it is with the worker already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Fate {
    #[default]
    Sound,
    Malformed,
    /// The client left in the middle of it.
    BrokenOff,
}

/// Facts about a request's body that outlive its being sent.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    pub(crate) fate: Cell<Fate>,
    /// Read so far.
    pub(crate) bytes: Cell<u64>,
}

impl Upload {
    fn came(&self, frame: &Frame<Bytes>) {
        let more = frame.data_ref().map_or(0, |data| data.len() as u64);
        self.bytes.set(self.bytes.get() + more);
    }

    fn failed(&self, error: &(dyn StdError + 'static)) {
        self.fate.set(if is_malformed(error) {
            Fate::Malformed
        } else {
            Fate::BrokenOff
        });
    }
}

/// Whether it was the bytes that were wrong; the gate and hyper's decoder say so as I/O errors.
fn is_malformed(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && matches!(
                io.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
            )
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// What was read of a body while its request waited for its worker.
#[derive(Debug, Default)]
struct Early {
    frames: VecDeque<Frame<Bytes>>,
    /// Bytes that they took. A frame takes some whatever is in it: a client may send a byte in each.
    taken: usize,
}

impl Early {
    fn has_room(&self) -> bool {
        self.taken < READ_AHEAD
    }

    fn push(&mut self, frame: Frame<Bytes>) {
        self.taken += size_of_val(&frame) + frame.data_ref().map_or(0, Bytes::len);
        self.frames.push_back(frame);
    }
}

/// A request's body on its way to the worker.
#[derive(Debug)]
pub(crate) struct ClientBody {
    inner: Option<Incoming>,
    early: Early,
    /// Of the whole body: what it is framed by.
    hint: SizeHint,
    upload: Option<Rc<Upload>>,
    /// Whose it is to say which trailers may pass; without a body there is none.
    config: Option<Rc<Config>>,
    /// Until then it is not read, unless the worker asks for it before.
    expects: Option<Pin<Box<Sleep>>>,
}

impl ClientBody {
    pub(crate) fn empty() -> Self {
        Self {
            inner: None,
            early: Early::default(),
            hint: SizeHint::with_exact(0),
            upload: None,
            config: None,
            expects: None,
        }
    }

    pub(crate) fn new(inner: Incoming, upload: Rc<Upload>, config: Rc<Config>) -> Self {
        Self {
            early: Early::default(),
            hint: inner.size_hint(),
            inner: Some(inner),
            upload: Some(upload),
            config: Some(config),
            expects: None,
        }
    }

    /// Reads a small body ahead, so that its sender need not wait for the worker; resolves only if it
    /// breaks off.
    pub(crate) async fn read_ahead(&mut self) {
        if let Some(inner) = &mut self.inner {
            while self.early.has_room() && !inner.is_end_stream() {
                match std::future::poll_fn(|cx| Pin::new(&mut *inner).poll_frame(cx)).await {
                    Some(Ok(frame)) => {
                        if let Some(upload) = &self.upload {
                            upload.came(&frame);
                        }
                        self.early.push(frame);
                    }
                    Some(Err(e)) => {
                        if let Some(upload) = &self.upload {
                            upload.failed(&e);
                        }
                        return;
                    }
                    None => break,
                }
            }
        }
        std::future::pending::<()>().await;
    }

    /// Not read before the worker asks for it, or has had the time to.
    pub(crate) fn on_permission(mut self) -> Self {
        self.expects = Some(Box::pin(tokio::time::sleep(CONTINUE_WAIT)));
        self
    }

    /// The worker has asked for it.
    pub(crate) fn permit(&mut self) {
        self.expects = None;
    }

    /// As it may go on.
    fn passed(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let session = self
            .config
            .as_ref()
            .map_or(&[][..], |config| &config.session.headers);
        without_forbidden_trailers(frame, session, Toward::Worker)
    }
}

impl HttpBody for ClientBody {
    type Data = Bytes;
    /// The client's connection broke, or its body was malformed.
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(patience) = &mut self.expects {
            ready!(patience.as_mut().poll(cx));
            self.expects = None;
        }
        if let Some(frame) = self.early.frames.pop_front() {
            return Poll::Ready(Some(Ok(self.passed(frame))));
        }
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        match ready!(Pin::new(inner).poll_frame(cx)) {
            Some(Err(e)) => {
                if let Some(upload) = &self.upload {
                    upload.failed(&e);
                }
                Poll::Ready(Some(Err(e)))
            }
            Some(Ok(frame)) => {
                if let Some(upload) = &self.upload {
                    upload.came(&frame);
                }
                Poll::Ready(Some(Ok(self.passed(frame))))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.early.frames.is_empty() && self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

/// Tells the gate that the next request may come, once the response is complete, and the record how it went.
#[derive(Debug, Default)]
pub(crate) struct Served {
    line: Option<Rc<Line>>,
    record: Option<Rc<Record>>,
}

impl Served {
    pub(crate) fn new(line: Option<Rc<Line>>, record: Option<Rc<Record>>) -> Self {
        Self { line, record }
    }

    /// Where it is written what becomes of the request, if somebody wants to know.
    pub(crate) fn record(&self) -> Option<&Rc<Record>> {
        self.record.as_ref()
    }

    fn now(&mut self) {
        if let Some(line) = self.line.take() {
            line.served();
        }
    }

    fn complete(&mut self) {
        self.now();
        if let Some(record) = &self.record {
            record.complete();
        }
    }

    /// The connection becomes a tunnel; there is no next request.
    pub(crate) fn never(mut self) -> Option<Rc<Record>> {
        self.line = None;
        self.record.take()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.now();
    }
}

/// An answer's body as it comes from the worker.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The connection that it comes over.
    Http1(Http1),
    Hyper(Incoming),
}

impl Answer {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self {
            Self::Http1(connection) => connection
                .poll_frame(cx)
                .map(|some| some.map(|frame| frame.map_err(Cut::Worker))),
            Self::Hyper(incoming) => Pin::new(incoming)
                .poll_frame(cx)
                .map(|some| some.map(|frame| frame.map_err(Cut::Hyper))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_end_stream(),
            Self::Hyper(incoming) => incoming.is_end_stream(),
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(connection) => connection.size_hint(),
            Self::Hyper(incoming) => incoming.size_hint(),
        }
    }

    /// Its end is the worker's closing the connection, which a crash is, too.
    fn ends_with_connection(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.ends_with_connection(),
            Self::Hyper(_) => false,
        }
    }
}

type Ending = Pin<Box<dyn Future<Output = Option<EndReason>>>>;

/// How the session has ended, if that is known soon.
fn news_of(session: &Arc<Session>) -> Ending {
    let session = Arc::clone(session);
    Box::pin(async move { session.wait_end_for(CUT_NEWS).await })
}

/// An answer on its way to the client.
pub(crate) struct WorkerBody {
    /// `None` once nothing more of it is wanted.
    inner: Option<Answer>,
    bound: Rc<Bound>,
    /// Whose it is to say which trailers may pass.
    config: Rc<Config>,
    /// Why it ends here, when what came before has been sent on.
    cut: Option<Cut>,
    /// Resolves when the session ends, for workers that outlive it.
    ended: Option<Ending>,
    news: Option<Ending>,
    hold: Option<Hold>,
    served: Served,
}

impl fmt::Debug for WorkerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBody")
            .field("session", &self.bound.session.name)
            .finish_non_exhaustive()
    }
}

impl WorkerBody {
    pub(crate) fn new(
        inner: Answer,
        bound: Rc<Bound>,
        config: Rc<Config>,
        hold: Hold,
        served: Served,
    ) -> Self {
        let ended: Option<Ending> = (bound.session.kind.reuse == crate::config::Reuse::AfterSession
            && !inner.is_end_stream())
        .then(|| {
            let session = Arc::clone(&bound.session);
            Box::pin(async move { Some(session.wait_end().await) }) as Ending
        });
        let mut body = Self {
            inner: Some(inner),
            bound,
            config,
            cut: None,
            ended,
            news: None,
            hold: Some(hold),
            served,
        };
        body.complete_if_over();
        body
    }

    fn complete_if_over(&mut self) {
        if self.inner.as_ref().is_some_and(Answer::is_end_stream) {
            self.complete();
        }
    }

    fn complete(&mut self) {
        if let Some(Answer::Http1(connection)) = self.inner.take() {
            self.bound.give_back(connection);
        }
        self.served.complete();
        self.hold = None;
    }
}

impl HttpBody for WorkerBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.cut.is_some() {
            let ended = match &mut self.news {
                Some(news) => ready!(news.as_mut().poll(cx)),
                None => None,
            };
            let cut = self.cut.take();
            return Poll::Ready(cut.map(|cut| Err(ended.map_or(cut, Cut::SessionEnded))));
        }
        if let Some(ended) = &mut self.ended
            && let Poll::Ready(Some(reason)) = ended.as_mut().poll(cx)
        {
            self.ended = None;
            self.inner = None;
            return Poll::Ready(Some(Err(Cut::SessionEnded(reason))));
        }
        let this = &mut *self;
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        if this.news.is_none() {
            match ready!(inner.poll_frame(cx)) {
                Some(Ok(frame)) => {
                    self.complete_if_over();
                    let session = &self.config.session.headers;
                    let frame = without_forbidden_trailers(frame, session, Toward::Client);
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Err(cut)) => {
                    self.inner = None;
                    // It may have died, of itself or with its session.
                    self.news = Some(news_of(&self.bound.session));
                    // hyper drops what it has not sent yet at an error: the head, too, if all came at once. It sends
                    // before it asks again.
                    self.cut = Some(cut);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                None if inner.ends_with_connection() => {
                    self.news = Some(news_of(&self.bound.session));
                }
                None => {
                    self.complete();
                    return Poll::Ready(None);
                }
            }
        }
        let Some(news) = &mut self.news else {
            return Poll::Ready(None);
        };
        match ready!(news.as_mut().poll(cx)) {
            // A worker that was asked to end may have finished its answer; one that is dead has not.
            Some(reason) if reason.is_loss() || reason.is_at_once() => {
                Poll::Ready(Some(Err(Cut::SessionEnded(reason))))
            }
            _ => {
                self.news = None;
                self.complete();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_none() && self.cut.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or(SizeHint::with_exact(0), Answer::size_hint)
    }
}

/// What the client gets.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is nearly every body, and a box for each would cost more"
)]
pub(crate) enum Body {
    /// Made by herd.
    Own {
        bytes: Option<Bytes>,
        served: Served,
    },
    Worker(WorkerBody),
}

impl Body {
    pub(crate) fn own(bytes: Bytes, served: Served) -> Self {
        if let Some(record) = &served.record {
            record.complete();
        }
        Self::Own {
            bytes: (!bytes.is_empty()).then_some(bytes),
            served,
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let (polled, served) = match self.get_mut() {
            Self::Own { bytes, served } => {
                served.now();
                (Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))), served)
            }
            Self::Worker(body) => (Pin::new(&mut *body).poll_frame(cx), &mut body.served),
        };
        if let Some(record) = &served.record {
            record.passed(&polled);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own { bytes, .. } => bytes.is_none(),
            Self::Worker(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own { bytes, .. } => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Worker(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many frames of so many bytes are read ahead.
    fn read_ahead(len: usize) -> usize {
        let mut early = Early::default();
        while early.has_room() {
            early.push(Frame::data(Bytes::from(vec![0; len])));
        }
        early.frames.len()
    }

    #[test]
    fn a_body_in_pieces_of_nothing_takes_no_more_memory_than_one_in_a_piece() {
        let frame = size_of::<Frame<Bytes>>();
        assert_eq!(read_ahead(0), READ_AHEAD.div_ceil(frame));
        assert_eq!(read_ahead(1), READ_AHEAD.div_ceil(frame + 1));
        assert_eq!(read_ahead(READ_AHEAD), 1);
    }

    #[test]
    fn a_body_that_breaks_off_is_told_from_a_malformed_one() {
        for (kind, fate) in [
            (io::ErrorKind::UnexpectedEof, Fate::BrokenOff),
            (io::ErrorKind::ConnectionReset, Fate::BrokenOff),
            (io::ErrorKind::InvalidData, Fate::Malformed),
            (io::ErrorKind::InvalidInput, Fate::Malformed),
        ] {
            let upload = Upload::default();
            upload.failed(&io::Error::from(kind));
            assert_eq!(upload.fate.get(), fate, "{kind}");
        }
    }
}
