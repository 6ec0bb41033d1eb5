//! HTTP/2 with prior knowledge on the client's side.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

use super::fake::Herd;
use crate::driver::Among;
use crate::proxy::upstream::LocalTasks;

type Sender = SendRequest<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>;

/// Runs a test with a client connection.
fn with_client<F: Future<Output = ()>>(herd: &Herd, test: impl FnOnce(Sender) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let socket = tokio::net::TcpStream::connect(herd.addr).await.unwrap();
        let (sender, connection) = http2::Builder::new(LocalTasks)
            .handshake(TokioIo::new(socket))
            .await
            .unwrap();
        tokio::task::spawn_local(connection);
        tokio::time::timeout(Duration::from_secs(20), test(sender))
            .await
            .expect("the test hangs");
    });
}

fn request(
    method: Method,
    path: &str,
) -> Request<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>> {
    Request::builder()
        .method(method)
        .uri(format!("http://h{path}"))
        .header("x-session-id", "s")
        .body(Empty::new().boxed_unsync())
        .unwrap()
}

#[test]
fn a_request_that_names_no_host_is_refused_as_over_http_1() {
    let herd = Herd::start("", "");
    with_client(&herd, async |mut sender| {
        let mut nameless = request(Method::GET, "/head");
        *nameless.uri_mut() = http::Uri::from_static("/head");
        let answer = sender.send_request(nameless).await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        assert_eq!(answer.headers()["x-herd-error"], "bad_request");
        let mut by_host = request(Method::GET, "/head");
        *by_host.uri_mut() = http::Uri::from_static("/head");
        by_host.headers_mut().insert("host", "h".parse().unwrap());
        let answer = sender.send_request(by_host).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    });
    assert_eq!(herd.starts(), 1, "a worker was started for nobody");
}

#[test]
fn requests_are_served() {
    let herd = Herd::start("", "");
    with_client(&herd, async |mut sender| {
        let answer = sender.send_request(request(Method::GET, "/head")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["x-herd-session-state"], "created");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let seen = String::from_utf8_lossy(&body).to_ascii_lowercase();
        assert!(
            seen.starts_with("get /head http/1.1\r\n") && seen.contains("host: h\r\n"),
            "{seen}"
        );
        let answer = sender
            .send_request(request(Method::GET, "/trailers"))
            .await
            .unwrap();
        let whole = answer.into_body().collect().await.unwrap();
        let trailers = whole.trailers().unwrap();
        assert_eq!(trailers["x-sum"], "7");
        assert_eq!(
            trailers.len(),
            1,
            "what is herd's to say is not the worker's: {trailers:?}"
        );
        let mut nameless = request(Method::GET, "/");
        nameless.headers_mut().remove("x-session-id");
        let answer = sender.send_request(nameless).await.unwrap();
        assert_eq!(answer.headers()["x-herd-error"], "session_id_required");
    });
}

#[test]
fn a_plain_connect_is_refused() {
    let herd = Herd::start("", "");
    with_client(&herd, async |mut sender| {
        let mut connect = request(Method::CONNECT, "");
        *connect.uri_mut() = "h:443".parse().unwrap();
        let answer = sender.send_request(connect).await.unwrap();
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.headers()["x-herd-error"], "method_not_allowed");
        assert!(answer.headers()["allow"].to_str().unwrap().starts_with("GET, "));
    });
    assert_eq!(herd.starts(), 0);
}

#[test]
fn a_stream_that_is_reset_releases_its_session() {
    let herd = Herd::start("", "");
    with_client(&herd, async |mut sender| {
        let answer = sender
            .send_request(request(Method::GET, "/events"))
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let held = async |wanted: u32| {
            while herd
                .handle
                .list(Among::Live)
                .await
                .unwrap()
                .iter()
                .all(|v| v.holders != wanted)
            {
                tokio::task::yield_now().await;
            }
        };
        held(1).await;
        drop(answer);
        held(0).await;
    });
}

#[test]
fn a_websocket_over_http2_is_tunnelled_and_ends_the_session() {
    let herd = Herd::start("", "");
    with_client(&herd, async |mut sender| {
        let connect = |path| {
            let mut connect = request(Method::CONNECT, path);
            connect
                .extensions_mut()
                .insert(hyper::ext::Protocol::from_static("websocket"));
            connect
        };
        // The server's settings have to be known before an extended CONNECT may be sent.
        sender
            .send_request(request(Method::GET, "/worker"))
            .await
            .unwrap();
        // To CONNECT a 2xx would say that there is a tunnel; other answers pass.
        let answer = sender.send_request(connect("/worker")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(answer.headers()["x-herd-error"], "worker_answer_invalid");
        let answer = sender.send_request(connect("/nowhere")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        assert!(answer.headers().get("x-herd-error").is_none());
        let mut answer = sender.send_request(connect("/echo")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{answer:?}");
        assert!(answer.headers().get("sec-websocket-accept").is_none());
        let mut stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
        stream.write_all(b"\x02\x05hello").await.unwrap();
        let mut echo = [0; 7];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"\x02\x05hello");
        stream.write_all(b"crash").await.unwrap();
        let mut close = [0; 4];
        stream.read_exact(&mut close).await.unwrap();
        assert_eq!(close, [0x88, 20, 0x03, 0xf3]);
    });
}

#[test]
fn keys_and_origins_count_over_http2_too() {
    const KEY: &str = "herd_alice_0123456789";
    let digest = data_encoding::HEXLOWER.encode(&crate::access::keys::digest_of(KEY));
    let auth = format!("auth: {{keys: {{alice: {{sha256: {digest}}}}}}}\n");
    let herd = Herd::start_with("", "", &auth);
    with_client(&herd, async |mut sender| {
        let answer = sender.send_request(request(Method::GET, "/head")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers()["x-herd-error"], "unauthorized");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer realm=\"herd\"");
        assert_eq!(herd.starts(), 0);

        let session = crate::core::SessionId::parse(b"alice/s").unwrap();
        let (token, _) = herd
            .access
            .as_ref()
            .unwrap()
            .mint(session, None, Duration::from_secs(60));
        let mut keyed = request(Method::GET, "/head");
        let fields = keyed.headers_mut();
        fields.insert("authorization", format!("Bearer {KEY}").parse().unwrap());
        // As HTTP/2 may split them.
        fields.append("cookie", "a=1".parse().unwrap());
        fields.append("cookie", format!("herd_token={token}").parse().unwrap());
        fields.append("cookie", "b=2".parse().unwrap());
        let answer = sender.send_request(keyed).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["x-session-id"], "s");
        let seen = answer.into_body().collect().await.unwrap().to_bytes();
        let seen = String::from_utf8_lossy(&seen).to_ascii_lowercase();
        assert!(seen.contains("cookie: a=1; b=2\r\n"), "{seen}");
        assert!(
            !seen.contains("authorization") && !seen.contains("herd"),
            "{seen}"
        );

        for (origin, status) in [("http://evil.example.net", 403), ("http://h", 200)] {
            let mut connect = request(Method::CONNECT, &format!("/echo?herd_token={token}"));
            connect
                .extensions_mut()
                .insert(hyper::ext::Protocol::from_static("websocket"));
            connect.headers_mut().remove("x-session-id");
            connect.headers_mut().insert("origin", origin.parse().unwrap());
            let answer = sender.send_request(connect).await.unwrap();
            assert_eq!(answer.status(), status, "{origin}");
        }
    });
}
