//! A WebSocket (RFC 6455) that sends every message back.

use std::cell::Cell;

use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::answer::{self, Answer};
use super::told;

/// Where a request leaves its upgrade for the connection's task.
#[derive(Default)]
pub(super) struct Slot(Cell<Option<OnUpgrade>>);

impl Slot {
    pub(super) fn take(&self) -> Option<OnUpgrade> {
        self.0.take()
    }
}

/// Answers the handshake.
pub(super) fn accept(mut request: Request<Incoming>, slot: &Slot) -> Answer {
    match create_response_with_body(&request, || ()) {
        Ok(response) => {
            slot.0.set(Some(hyper::upgrade::on(&mut request)));
            response.map(|()| answer::empty(StatusCode::SWITCHING_PROTOCOLS).into_body())
        }
        Err(error) => {
            let mut refused = answer::problem(
                StatusCode::UPGRADE_REQUIRED,
                &format!("this path speaks WebSocket (RFC 6455) only: {error}"),
            );
            let headers = refused.headers_mut();
            headers.insert(http::header::UPGRADE, http::HeaderValue::from_static("websocket"));
            headers.insert(
                http::header::SEC_WEBSOCKET_VERSION,
                http::HeaderValue::from_static("13"),
            );
            refused
        }
    }
}

/// Echoes until either side closes; a runner that is told to stop closes with 1001, going away.
pub(super) async fn serve(upgraded: Upgraded, mut stopping: watch::Receiver<bool>) {
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(message)) if message.is_text() || message.is_binary() => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                // Pings are answered, and a close is confirmed, by reading on.
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            () = told(&mut stopping) => break,
        }
    }
    let away = CloseFrame {
        code: CloseCode::Away,
        reason: "the runner was told to stop".into(),
    };
    if socket.close(Some(away)).await.is_ok() {
        while let Some(Ok(_)) = socket.next().await {}
    }
}
