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

/// Whether the answer proves, once and rightly, that it is to a WebSocket's handshake with this key.
pub(crate) fn accepted(headers: &HeaderMap, key: &[u8]) -> bool {
    let mut proofs = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
    match (proofs.next(), proofs.next()) {
        (Some(proof), None) => proof.as_bytes() == derive_accept_key(key).as_bytes(),
        _ => false,
    }
}
