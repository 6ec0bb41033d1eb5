//! WebSocket over HTTP/2 (RFC 8441) on the client's side, RFC 6455 on the worker's.

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue, Method};
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

/// Turns the head of an extended CONNECT into that of an upgrade; the key is what the answer has to match.
pub(crate) fn ask(head: &mut http::request::Parts) -> String {
    let key = generate_key();
    head.method = Method::GET;
    head.headers
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers
        .insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(value) = HeaderValue::from_str(&key) {
        head.headers.insert(SEC_WEBSOCKET_KEY, value);
    }
    head.headers
        .entry(SEC_WEBSOCKET_VERSION)
        .or_insert(HeaderValue::from_static("13"));
    key
}

pub(crate) fn accepted(headers: &HeaderMap, key: &[u8]) -> bool {
    headers
        .get(SEC_WEBSOCKET_ACCEPT)
        .is_some_and(|v| v.as_bytes() == derive_accept_key(key).as_bytes())
}
