//! TLS on the data port, with a real client of TLS.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::WS;
use super::fake::{Client, Herd};
use crate::config;
use crate::core::{HolderKind, KindId, SessionId};
use crate::driver::{KindChoice, Remains, Request, Wait};
use crate::proxy::transport::{Transport, Wire};
use crate::proxy::tunnel::{self, Carried, Talk};
use crate::proxy::upstream::WorkerIo;
use crate::proxy::{Identity, Tls, TlsError};
use crate::worker::Connection;

/// A certificate that vouches for itself, and its key.
#[derive(Debug)]
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        files.renew();
        files
    }

    fn cert(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    fn renew(&self) {
        let made = rcgen::generate_simple_self_signed(vec!["herd.test".to_owned()]).unwrap();
        fs::write(self.cert(), made.cert.pem()).unwrap();
        write_private(&self.key(), &made.signing_key.serialize_pem());
    }

    fn network(&self) -> String {
        format!("  tls: {{cert: {:?}, key: {:?}}}", self.cert(), self.key())
    }

    fn identity(&self) -> Result<Identity, Vec<TlsError>> {
        Identity::read(&config::Tls {
            cert: self.cert(),
            key: self.key(),
        })
    }

    /// A client that believes in the certificate as it is now.
    fn client(&self, protocols: &[&[u8]]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.cert()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

async fn try_connect(herd: &Herd, client: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(herd.addr).await.unwrap();
    client
        .connect(ServerName::try_from("herd.test").unwrap(), socket)
        .await
}

async fn connect(herd: &Herd, client: &TlsConnector) -> TlsStream<TcpStream> {
    try_connect(herd, client).await.unwrap()
}

fn run<T>(test: impl Future<Output = T>) -> T {
    Herd::block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test)
            .await
            .expect("the test hangs")
    })
}

async fn send(stream: &mut TlsStream<TcpStream>, path: &str, fields: &str) {
    let head = format!("GET {path} HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

/// A head without a byte of what follows.
async fn head(stream: &mut TlsStream<TcpStream>) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// An answer with a length.
async fn answer(stream: &mut TlsStream<TcpStream>) -> (String, Vec<u8>) {
    let head = head(stream).await;
    let length = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let mut body = vec![0; length.unwrap().1.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    (head, body)
}

fn reused(head: &str) -> bool {
    head.to_ascii_lowercase().contains("x-herd-session-state: reused")
}

#[test]
fn requests_over_tls_reach_the_session_and_say_so() {
    let files = Files::new();
    let herd = Herd::start(&files.network(), "");
    run(async {
        for protocols in [&[][..], &[&b"http/1.1"[..]], &[b"h2", b"http/1.1"]] {
            let mut stream = connect(&herd, &files.client(protocols)).await;
            let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            assert_eq!(
                agreed,
                protocols.first().map(|p| p.to_vec()),
                "herd takes what it is asked for"
            );
            // Who agreed on h2 and speaks HTTP/1.1 is understood all the same.
            for _ in 0..3 {
                send(&mut stream, "/head", "").await;
                let (head, body) = answer(&mut stream).await;
                assert!(head.starts_with("HTTP/1.1 200"), "{head}");
                let body = String::from_utf8(body).unwrap().to_ascii_lowercase();
                assert!(body.contains("x-forwarded-proto: https\r\n"), "{body}");
            }
        }
    });
    assert_eq!(herd.starts(), 1);
}

#[test]
fn an_idle_connection_gives_its_buffers_back_and_goes_on() {
    let files = Files::new();
    let herd = Herd::start(&files.network(), "");
    run(async {
        let mut stream = connect(&herd, &files.client(&[])).await;
        for _ in 0..2 {
            send(&mut stream, "/worker", "").await;
            assert_eq!(answer(&mut stream).await.1, b"w1");
            // Longer than a connection may idle before it is parked.
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
        send(&mut stream, "/worker", "").await;
        assert!(reused(&answer(&mut stream).await.0));
    });
}

#[test]
fn http2_is_agreed_on_and_spoken() {
    let files = Files::new();
    let herd = Herd::start(&files.network(), "");
    run(async {
        let stream = connect(&herd, &files.client(&[b"h2"])).await;
        let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(connection);
        for _ in 0..20 {
            let request = http::Request::builder()
                .uri("https://h/worker")
                .header("x-session-id", "s")
                .body(())
                .unwrap();
            let (response, _) = requests.send_request(request, true).unwrap();
            let mut response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "w1");
        }
        drop(requests);
        tasks.join_next().await.unwrap().unwrap().unwrap();
    });
}

#[test]
fn bulk_through_a_tunnel_and_in_bodies_is_exact() {
    const PIECES: usize = 256;
    let pattern: Vec<u8> = (0..100_003).map(|i| (i % 251) as u8).collect();
    let files = Files::new();
    let herd = Herd::start(&files.network(), "");
    run(async {
        let mut stream = connect(&herd, &files.client(&[])).await;
        send(&mut stream, "/echo", "Connection: upgrade\r\nUpgrade: raw\r\n").await;
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 101"));
        let (mut read, mut write) = tokio::io::split(stream);
        let send = async {
            for _ in 0..PIECES {
                write.write_all(&pattern).await.unwrap();
            }
            write.shutdown().await.unwrap();
        };
        let receive = async {
            let mut got = vec![0; pattern.len()];
            for _ in 0..PIECES {
                read.read_exact(&mut got).await.unwrap();
                assert!(got == pattern, "other bytes came back");
            }
            let mut rest = Vec::new();
            read.read_to_end(&mut rest).await.unwrap();
            assert_eq!(
                rest, b"bye",
                "the half-close is passed on, and the worker's end comes cleanly"
            );
        };
        tokio::join!(send, receive);

        let mut stream = connect(&herd, &files.client(&[])).await;
        let length = PIECES * pattern.len();
        let head =
            format!("POST /count HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..PIECES {
            stream.write_all(&pattern).await.unwrap();
        }
        stream.flush().await.unwrap();
        assert_eq!(answer(&mut stream).await.1, format!("{length} ").as_bytes());
        self::send(&mut stream, "/large", "").await;
        let (_, body) = answer(&mut stream).await;
        assert!(body.len() == 32 << 20 && body.iter().all(|byte| *byte == b'x'));
    });
}

/// A client may be so slow that the answer which opens its tunnel is with TLS still when the tunnel begins.
#[test]
fn what_tls_still_has_when_a_tunnel_begins_is_sent_though_the_worker_says_nothing() {
    let files = Files::new();
    let tls = Tls::with(files.identity().unwrap());
    let herd = Herd::start("", "");
    let tunnelled = run(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = ServerName::try_from("herd.test").unwrap();
        let client = async {
            let socket = TcpStream::connect(listener.local_addr().unwrap()).await;
            files.client(&[]).connect(name, socket.unwrap()).await.unwrap()
        };
        let server = async {
            let (socket, _) = listener.accept().await.unwrap();
            tls.acceptor().accept(Wire::new(socket)).await.unwrap()
        };
        let (mut client, mut server) = tokio::join!(client, server);
        let mut sent = 0;
        // Until the kernel takes no more.
        while !server.get_ref().1.wants_write() {
            sent += server.write(&[b'.'; 4096]).await.unwrap();
        }
        server.write_all(b"101").await.unwrap();

        let request = Request {
            id: SessionId::parse(b"s").unwrap(),
            kind: KindChoice::Fallback(KindId(0)),
            holder: HolderKind::Stream,
            wait: Wait::Queue,
            remains: Remains::Respect,
        };
        let hold = herd.handle.attach(request).await.unwrap().hold;
        let (worker, silent) = tokio::net::UnixStream::pair().unwrap();
        let worker = WorkerIo::new(Connection::Unix(worker), Arc::default());
        let (client_side, none) = (Transport::Tls(Box::new(server)), Bytes::new());
        let tunnel = tunnel::run(client_side, none.clone(), worker, none, Talk::Other, hold);
        let reads = async {
            let mut got = vec![0; sent + 3];
            client.read_exact(&mut got).await.unwrap();
            assert!(got.ends_with(b".101"), "{:?}", got.last_chunk::<4>());
            drop((client, silent));
        };
        tokio::join!(tunnel, reads).0
    });
    assert_eq!(tunnelled.1, Carried::default(), "nothing of it was the tunnel's");
}

#[test]
fn a_session_ends_with_its_last_websocket_over_tls() {
    let files = Files::new();
    let herd = Herd::start(&files.network(), "");
    run(async {
        let mut stream = connect(&herd, &files.client(&[])).await;
        send(&mut stream, "/echo", WS).await;
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 101"));
        // Without a word, not even of TLS.
        drop(stream);
    });
    herd.until("the end", |v| {
        !v.is_empty() && v.iter().all(|v| v.ended.is_some())
    });
}

#[test]
fn a_page_that_came_without_tls_opens_no_websocket_over_it() {
    let files = Files::new();
    let herd = Herd::start_with(&files.network(), "", "session: {query: sid}");
    for (page, told) in [("http://h", "HTTP/1.1 403"), ("https://h", "HTTP/1.1 101")] {
        let answer = run(async {
            let mut stream = connect(&herd, &files.client(&[])).await;
            let asked = format!("GET /echo?sid=s HTTP/1.1\r\nHost: h\r\n{WS}Origin: {page}\r\n\r\n");
            stream.write_all(asked.as_bytes()).await.unwrap();
            head(&mut stream).await
        });
        assert!(answer.starts_with(told), "{page}: {answer}");
    }
}

#[test]
fn a_waiting_client_that_leaves_is_noticed_behind_unread_input() {
    let files = Files::new();
    let herd = Herd::start(&files.network(), "");
    for amount in [0, 1000, 100 << 10] {
        let stream = run(async {
            let mut stream = connect(&herd, &files.client(&[])).await;
            send(&mut stream, "/silent", "").await;
            // What comes next is not to be served before that is answered, so not all of it may be taken.
            let next = vec![b'G'; amount];
            let _ = tokio::time::timeout(Duration::from_millis(200), stream.write_all(&next)).await;
            stream
        });
        herd.until("one holder", |v| v.iter().any(|v| v.holders == 1));
        drop(stream);
        herd.until("no holder", |v| v.iter().all(|v| v.holders == 0));
    }
}

#[test]
fn a_truncated_answer_never_looks_whole() {
    let files = Files::new();
    let herd = Herd::start(&files.network(), "");
    run(async {
        let mut stream = connect(&herd, &files.client(&[])).await;
        send(&mut stream, "/crash-at-close", "").await;
        let mut all = Vec::new();
        let end = stream.read_to_end(&mut all).await;
        assert!(end.is_err(), "the end looked clean after {all:?}");
    });
}

#[test]
fn plain_http_on_the_port_is_told_to_use_tls() {
    let files = Files::new();
    let herd = Herd::start(&files.network(), "");
    let answer = herd.get("/worker", "");
    assert_eq!((answer.status(), answer.code()), (400, "tls_required"));
    assert!(answer.text().contains("https://"), "{answer:?}");
    assert_eq!(herd.starts(), 0);
}

#[test]
fn what_is_no_handshake_is_closed_and_a_stalled_one_in_time() {
    let files = Files::new();
    let herd = Herd::start(&format!("  header_timeout: 300ms\n{}", files.network()), "");
    for said in [
        &b"\x00\x01\x02"[..],
        b"\x16\x03\x01\x02\x00\x01garbage",
        b"\x16",
        b"",
    ] {
        let mut client: Client = herd.connect();
        std::io::Write::write_all(client.reader.get_mut(), said).unwrap();
        // A reset or an end, after an alert perhaps; never an answer, and never for ever.
        let rest = client.rest().unwrap_or_default();
        assert!(!rest.starts_with(b"HTTP"), "{said:?}: {rest:?}");
    }
    run(async { connect(&herd, &files.client(&[])).await });
}

#[test]
fn a_renewed_certificate_is_used_from_then_on_and_harms_no_connection() {
    let files = Files::new();
    let tls = Arc::new(Tls::with(files.identity().unwrap()));
    let herd = Herd::start_with_tls(&files.network(), Arc::clone(&tls));
    run(async {
        let old = files.client(&[]);
        let mut standing = connect(&herd, &old).await;
        files.renew();
        let new = files.client(&[]);
        assert!(
            try_connect(&herd, &new).await.is_err(),
            "it is not read before it is asked for"
        );
        tls.renew(files.identity().unwrap());
        connect(&herd, &new).await;
        assert!(
            try_connect(&herd, &old).await.is_err(),
            "the old certificate is still used"
        );
        send(&mut standing, "/worker", "").await;
        assert_eq!(answer(&mut standing).await.1, b"w1");
    });
}

#[test]
fn each_flaw_of_the_files_is_told_apart() {
    let told = |spoil: &dyn Fn(&Files)| {
        let files = Files::new();
        spoil(&files);
        let errors = files.identity().unwrap_err();
        let [error] = errors.as_slice() else {
            panic!("{errors:?}")
        };
        (error.setting, error.to_string())
    };
    type Spoil<'a> = &'a dyn Fn(&Files);
    let wrong: [(Spoil<'_>, &str, &str); 7] = [
        (&|f| fs::remove_file(f.cert()).unwrap(), "cert", "No such file"),
        (
            &|f| fs::write(f.cert(), "").unwrap(),
            "cert",
            "has no certificate",
        ),
        (
            &|f| fs::write(f.cert(), "-----BEGIN CERTIFICATE-----\nnothing").unwrap(),
            "cert",
            "is not PEM",
        ),
        (&|f| write_private(&f.key(), "hello"), "key", "has no private key"),
        (
            &|f| fs::set_permissions(f.key(), fs::Permissions::from_mode(0o644)).unwrap(),
            "key",
            "can be read by others",
        ),
        (
            &|f| {
                write_private(
                    &f.key(),
                    "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                )
            },
            "key",
            "cannot be used",
        ),
        (
            &|f| {
                let cert = fs::read(f.cert()).unwrap();
                f.renew();
                fs::write(f.cert(), cert).unwrap();
            },
            "cert",
            "does not belong to this certificate",
        ),
    ];
    for (spoil, setting, text) in wrong {
        let (named, message) = told(spoil);
        assert!(
            named == setting && message.contains(text),
            "{setting}, {text}: {named}, {message}"
        );
    }
}

#[test]
fn what_is_wrong_with_the_certificate_and_with_its_key_is_told_at_once() {
    let files = Files::new();
    fs::remove_file(files.cert()).unwrap();
    fs::remove_file(files.key()).unwrap();
    let errors = files.identity().unwrap_err();
    let settings: Vec<&str> = errors.iter().map(|error| error.setting).collect();
    assert_eq!(settings, ["cert", "key"]);
}
