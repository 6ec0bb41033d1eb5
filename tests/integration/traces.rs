//! What a receiver of OpenTelemetry gets from a real `herd start`, read with the project's own types.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::client::Client;
use crate::running::{CAP, HERD, Running, poll, stdout};
use crate::supervised::Mode;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A worker that answers with the head it was sent.
const ECHO: &str = "
import http.server, sys
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        body = str(self.headers).encode()
        self.send_response(int(self.path.split('?')[0].strip('/') or 200))
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Echo).serve_forever()
";

/// What has come, and the heads it came with.
#[derive(Debug, Default)]
struct Came {
    batches: Mutex<Vec<(String, ExportTraceServiceRequest)>>,
    more: Condvar,
}

/// A receiver of OTLP over HTTP that answers with this status line.
#[derive(Debug)]
struct Receiver {
    address: SocketAddr,
    came: Arc<Came>,
}

impl Receiver {
    fn start(status: &'static str) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), status)
    }

    fn on(listener: TcpListener, status: &'static str) -> Self {
        let address = listener.local_addr().unwrap();
        let came = Arc::new(Came::default());
        let into = Arc::clone(&came);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let into = Arc::clone(&into);
                std::thread::spawn(move || receive(stream, &into, status));
            }
        });
        Self { address, came }
    }

    /// Over TLS, with this certificate.
    fn secure(certified: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Self {
        let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let came = Arc::new(Came::default());
        let into = Arc::clone(&came);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                receive(rustls::StreamOwned::new(session, stream), &into, "200 OK");
            }
        });
        Self { address, came }
    }

    /// All spans, as soon as there are so many.
    fn spans(&self, count: usize) -> Vec<Span> {
        let all = |batches: &[(String, ExportTraceServiceRequest)]| -> Vec<Span> {
            let resources = batches.iter().flat_map(|(_, batch)| &batch.resource_spans);
            let scopes = resources.flat_map(|resource| &resource.scope_spans);
            scopes.flat_map(|scope| scope.spans.clone()).collect()
        };
        let batches = self.came.batches.lock().unwrap();
        let wait = |batches: &mut Vec<_>| all(batches).len() < count;
        let (batches, waited) = self.came.more.wait_timeout_while(batches, CAP, wait).unwrap();
        assert!(!waited.timed_out(), "{count} spans do not come: {batches:?}");
        all(&batches)
    }

    fn first(&self) -> (String, ExportTraceServiceRequest) {
        self.spans(1);
        self.came.batches.lock().unwrap()[0].clone()
    }
}

fn receive(stream: impl Read + Write, came: &Came, status: &str) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let batch = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
        came.batches.lock().unwrap().push((head, batch));
        came.more.notify_all();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn start(receiver: SocketAddr, keys: &str) -> Running {
    start_through(&[], &format!("http://{receiver}"), keys)
}

fn start_through(through: &[&str], receiver: &str, keys: &str) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("echo.py");
    std::fs::write(&script, ECHO).unwrap();
    std::fs::write(dir.path().join("key"), "Bearer hidden\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(dir.path().join("key"), mode).unwrap();
    let tag = dir.path().display().to_string();
    let (log, key) = (dir.path().join("access.log"), dir.path().join("key"));
    let yaml = format!(
        "network: {{ data_bind: 127.0.0.1:0 }}\naccess_log: {{ path: {log:?} }}\ntraces:\n  endpoint: \
         {receiver}/v1/traces\n  headers: {{ Authorization: {{ file: {key:?} }}, x-tenant: {{ value: t }} }}\n  {keys}\n\
         workers:\n  echo: {{ cmd: [python3, {script:?}, \"{{{{.Port}}}}\"], env: {{ HERD_TEST_TAG: {tag:?} }} }}\n  runner:\n    \
         cmd: [{HERD:?}, runner, --listen, \"{{{{.Port}}}}\"]\n    health_path: /healthz\n    env: {{ HERD_TEST_TAG: {tag:?} }}\n  one:\n    \
         cmd: [python3, {script:?}, \"{{{{.Port}}}}\"]\n    env: {{ HERD_TEST_TAG: {tag:?} }}\n    max: 1\n    queue: {{ timeout: 100ms }}\n  \
         broken: {{ cmd: [\"false\", \"{{{{.Port}}}}\"] }}\n"
    );
    Running::launch_through(through, dir, Mode::Own, &yaml).ready()
}

fn get(herd: &Running, target: &str, fields: &str) -> String {
    let request = format!(
        "GET {target} HTTP/1.1\r\nhost: app.example.com:81\r\nconnection: close\r\nx-session-id: secret-id\r\n{fields}\r\n"
    );
    let client = Client::of(herd).unwrap();
    client.exchange(request.as_bytes()).unwrap()
}

/// A WebSocket of the runner's, to be opened.
fn echo(client: &Client, id: &str) -> TcpStream {
    let fields = "x-herd-worker: runner\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                  sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    client.send(id, "GET /v1/echo", fields, "").unwrap()
}

/// What the worker was sent under this name.
fn sent(answer: &str, name: &str) -> Option<String> {
    let body = answer.split_once("\r\n\r\n")?.1;
    let value = body
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}: ")));
    value.map(|value| value.trim().to_owned())
}

fn attributes(all: &[KeyValue]) -> HashMap<&str, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    all.iter()
        .map(|pair| {
            let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
            (pair.key.as_str(), text(value.unwrap()))
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn dropped(herd: &Running) -> f64 {
    let client = Client::of(herd).unwrap();
    client.metric("herd_traces_dropped_total").unwrap()
}

#[test]
fn a_request_is_a_child_of_whom_it_comes_from_and_a_parent_of_what_its_worker_does() {
    let receiver = Receiver::start("200 OK");
    let herd = start(receiver.address, "service_name: front");
    let fields =
        format!("traceparent: 00-{TRACE}-{PARENT}-01\r\ntracestate: vendor=1\r\nuser-agent: curl/8\r\n");
    let answer = get(&herd, "/200?token=hidden", &fields);
    let spans = receiver.spans(2);
    let server = spans.iter().find(|span| span.kind == 2).unwrap();
    assert_eq!(
        (
            hex(&server.trace_id).as_str(),
            hex(&server.parent_span_id).as_str()
        ),
        (TRACE, PARENT)
    );
    assert_eq!(server.trace_state, "vendor=1");
    assert_eq!(server.name, "GET");
    assert_eq!(server.flags, 0x301);
    assert_eq!(
        sent(&answer, "traceparent"),
        Some(format!("00-{TRACE}-{}-01", hex(&server.span_id)))
    );
    assert_eq!(sent(&answer, "tracestate").as_deref(), Some("vendor=1"));
    let known = attributes(&server.attributes);
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/200"),
        ("url.scheme", "http"),
        ("server.address", "app.example.com"),
        ("server.port", "81"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("http.response.status_code", "200"),
        ("user_agent.original", "curl/8"),
        ("herd.worker", "echo"),
        ("herd.session_state", "created"),
        ("herd.end", "complete"),
    ] {
        assert_eq!(
            known.get(key).map(String::as_str),
            Some(value),
            "{key}: {known:?}"
        );
    }
    // Its start is a child, in its parent's time.
    let start = spans.iter().find(|span| span.name == "start").unwrap();
    assert_eq!(
        (&start.trace_id, &start.parent_span_id),
        (&server.trace_id, &server.span_id)
    );
    assert!(
        server.start_time_unix_nano <= start.start_time_unix_nano,
        "{spans:?}"
    );
    assert!(start.start_time_unix_nano < start.end_time_unix_nano, "{spans:?}");
    assert!(start.end_time_unix_nano <= server.end_time_unix_nano, "{spans:?}");
    let (head, batch) = receiver.first();
    assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
    for field in [
        "content-type: application/x-protobuf",
        "authorization: Bearer hidden",
        "x-tenant: t",
    ] {
        assert!(head.contains(field), "{head}");
    }
    let resource = batch.resource_spans[0].resource.as_ref().unwrap();
    let resource = attributes(&resource.attributes);
    assert_eq!(resource["service.name"], "front");
    assert_eq!(resource["process.pid"], herd.pid().to_string());
    let shown = format!("{batch:?}");
    assert!(
        !shown.contains("hidden") && !shown.contains("secret-id"),
        "{shown}"
    );
    assert!(!herd.said().contains("hidden"));
    let line = std::fs::read_to_string(herd.dir.path().join("access.log")).unwrap();
    assert!(line.contains(TRACE), "{line}");
}

#[test]
fn whoever_began_the_trace_has_decided_whether_it_is_kept() {
    let receiver = Receiver::start("200 OK");
    let herd = start(receiver.address, "sample: 0");
    let unsampled = format!("traceparent: 00-{TRACE}-{PARENT}-00\r\n");
    let passed = sent(&get(&herd, "/", &unsampled), "traceparent").unwrap();
    assert!(
        passed.starts_with(&format!("00-{TRACE}-")) && passed.ends_with("-00"),
        "{passed}"
    );
    assert!(!passed.contains(PARENT), "{passed}");
    // Of those that begin here none is, and the worker is told so.
    let passed = sent(&get(&herd, "/", ""), "traceparent").unwrap();
    assert!(passed.ends_with("-00") && !passed.contains(TRACE), "{passed}");
    get(&herd, "/", &format!("traceparent: 00-{TRACE}-{PARENT}-01\r\n"));
    let spans = receiver.spans(1);
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert_eq!(hex(&spans[0].trace_id), TRACE);
}

#[test]
fn a_reload_changes_the_share_and_refuses_another_receiver() {
    let receiver = Receiver::start("200 OK");
    let herd = start(receiver.address, "sample: 0");
    let file = herd.dir.path().join("herd.yaml");
    let yaml = std::fs::read_to_string(&file).unwrap();
    get(&herd, "/", "");
    std::fs::write(&file, yaml.replace("sample: 0", "service_name: other")).unwrap();
    let refused = herd.herd(&["reload"]);
    assert!(
        stdout(&refused).contains("traces.service_name: has changed, and only a start can take that"),
        "{refused:?}"
    );
    std::fs::write(&file, yaml.replace("sample: 0", "sample: 1/1")).unwrap();
    assert!(herd.herd(&["reload"]).status.success());
    get(&herd, "/404", "");
    let spans = receiver.spans(1);
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert_eq!(
        attributes(&spans[0].attributes)["http.response.status_code"],
        "404"
    );
}

#[test]
fn a_traceparent_that_cannot_be_read_begins_a_new_trace() {
    let receiver = Receiver::start("200 OK");
    let herd = start(receiver.address, "");
    let valid = format!("00-{TRACE}-{PARENT}-01");
    for fields in [
        "traceparent: hello\r\n".to_owned(),
        format!("traceparent: {}\r\n", "0".repeat(4000)),
        format!("traceparent: 00-{TRACE}-0000000000000000-01\r\n"),
        format!("traceparent: {}\r\n", valid.to_uppercase()),
        format!("traceparent: {valid}\r\ntraceparent: {valid}\r\n"),
    ] {
        let answer = get(&herd, "/", &format!("{fields}tracestate: vendor=1\r\n"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let passed = sent(&answer, "traceparent").unwrap();
        assert!(passed.len() == 55 && !passed.contains(TRACE), "{passed}");
        assert_eq!(answer.matches("traceparent:").count(), 1, "{answer}");
        assert_eq!(sent(&answer, "tracestate"), None, "{answer}");
    }
    let spans = receiver.spans(6);
    let server = spans.iter().filter(|span| span.kind == 2);
    assert!(server.clone().count() == 5 && server.clone().all(|span| span.parent_span_id.is_empty()));
}

#[test]
fn errors_and_tunnels_are_told_as_what_they_are() {
    let receiver = Receiver::start("200 OK");
    let herd = start(receiver.address, "");
    get(&herd, "/503", "");
    get(&herd, "/", "x-herd-worker: nothing\r\n");
    let client = Client::of(&herd).unwrap();
    let mut tunnel = echo(&client, "t");
    tunnel.read_exact(&mut [0; 12]).unwrap();
    drop(tunnel);
    // With the starts of two workers.
    let spans = receiver.spans(5);
    let of = |status: &str| {
        let servers = spans.iter().filter(|span| span.kind == 2);
        let mut known = servers.map(|span| (span, attributes(&span.attributes)));
        let found = known.find(|(_, known)| known["http.response.status_code"] == status);
        found.unwrap_or_else(|| panic!("{status}: {spans:?}"))
    };
    let code = |span: &Span| span.status.as_ref().map_or(0, |status| status.code);
    let (span, known) = of("503");
    assert_eq!((code(span), known["error.type"].as_str()), (2, "503"));
    assert_eq!(known.get("herd.error"), None);
    // Not the server's fault.
    let (span, known) = of("404");
    assert_eq!((code(span), known["error.type"].as_str()), (0, "unknown_worker"));
    let (span, known) = of("101");
    assert_eq!((code(span), known["herd.tunnel"].as_str()), (0, "websocket"));
}

#[test]
fn a_wait_for_a_worker_that_never_came_is_a_span_that_failed() {
    let receiver = Receiver::start("200 OK");
    let herd = start(receiver.address, "");
    let failed = get(&herd, "/", "x-herd-worker: broken\r\n");
    assert!(failed.starts_with("HTTP/1.1 502"), "{failed}");
    let client = Client::of(&herd).unwrap();
    let mut first = client
        .send(
            "first",
            "GET /",
            "x-herd-worker: one\r\nconnection: close\r\n",
            "",
        )
        .unwrap();
    let mut head = [0; 12];
    first.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let late = get(&herd, "/", "x-herd-worker: one\r\n");
    assert!(late.contains("x-herd-error: queue_timeout"), "{late}");
    let at_once = get(&herd, "/", "x-herd-worker: one\r\nx-herd-wait: 0\r\n");
    assert!(at_once.contains("x-herd-error: at_capacity"), "{at_once}");
    // Four requests, two starts, and one wait; whoever did not wait has no span of it.
    let spans = receiver.spans(7);
    assert_eq!(spans.len(), 7, "{spans:?}");
    let of = |error: &str| {
        let mut servers = spans.iter().filter(|span| span.kind == 2);
        servers
            .find(|span| {
                attributes(&span.attributes)
                    .get("error.type")
                    .is_some_and(|it| it == error)
            })
            .unwrap_or_else(|| panic!("{error}: {spans:?}"))
    };
    for (error, name, title) in [
        ("worker_start_failed", "start", "The worker could not be started"),
        ("queue_timeout", "queue", "No worker slot became free in time"),
    ] {
        let server = of(error);
        let mut children = spans.iter().filter(|span| span.parent_span_id == server.span_id);
        let child = children.next().unwrap_or_else(|| panic!("{error}: {spans:?}"));
        assert_eq!((child.name.as_str(), children.count()), (name, 0), "{spans:?}");
        let status = child.status.as_ref().unwrap();
        assert_eq!((status.code, status.message.as_str()), (2, title));
        assert_eq!(attributes(&child.attributes)["error.type"], error);
        assert!(
            server.start_time_unix_nano <= child.start_time_unix_nano,
            "{spans:?}"
        );
        assert!(child.start_time_unix_nano < child.end_time_unix_nano, "{spans:?}");
        assert!(child.end_time_unix_nano <= server.end_time_unix_nano, "{spans:?}");
        let waited = attributes(&server.attributes)[&*format!("herd.{name}_ms")].parse::<f64>();
        assert!(waited.clone().unwrap() > 0.0, "{waited:?}");
    }
    let server = of("at_capacity");
    let of_it = |span: &&Span| span.parent_span_id == server.span_id;
    assert_eq!(spans.iter().find(of_it), None);
}

#[test]
fn the_end_of_a_worker_that_hangs_is_an_error_of_all_that_was_open() {
    let receiver = Receiver::start("200 OK");
    let herd = start(receiver.address, "");
    let file = herd.dir.path().join("herd.yaml");
    let yaml = std::fs::read_to_string(&file).unwrap();
    let ready = "health_path: /healthz";
    let alive = "liveness: { path: /healthz, interval: 100ms, timeout: 100ms }";
    std::fs::write(&file, yaml.replace(ready, &format!("{ready}\n    {alive}"))).unwrap();
    assert!(herd.herd(&["reload"]).status.success());
    let client = Client::of(&herd).unwrap();
    let mut tunnel = echo(&client, "t");
    tunnel.read_exact(&mut [0; 12]).unwrap();
    herd.hang("t");
    let refused = client.ask("t", "GET /healthz", "").unwrap();
    assert!(refused.contains("x-herd-error: worker_crashed"), "{refused}");
    // With the start.
    let spans = receiver.spans(3);
    let of = |status: &str| {
        let mut known = spans.iter().map(|span| (span, attributes(&span.attributes)));
        let found = known.find(|(_, known)| {
            known
                .get("http.response.status_code")
                .is_some_and(|has| has == status)
        });
        found.unwrap_or_else(|| panic!("{status}: {spans:?}"))
    };
    let code = |span: &Span| span.status.as_ref().unwrap().code;
    let (span, known) = of("101");
    assert_eq!(
        (code(span), known["herd.end"].as_str()),
        (2, "session_ended"),
        "{known:?}"
    );
    let (span, known) = of("502");
    assert_eq!(
        (code(span), known["herd.error"].as_str()),
        (2, "worker_crashed"),
        "{known:?}"
    );
    assert_eq!(herd.until("t", "ended")["reason"], "probe_failed");
}

#[test]
fn a_receiver_that_is_away_slows_nobody_down_and_is_told_of_once() {
    // Nobody listens there, until somebody does.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let herd = start(address, "");
    get(&herd, "/", "");
    herd.logged("the receiver of traces takes no spans");
    for _ in 0..20 {
        assert!(get(&herd, "/", "").starts_with("HTTP/1.1 200"));
    }
    let receiver = Receiver::on(TcpListener::bind(address).unwrap(), "200 OK");
    let spans = receiver.spans(22);
    assert!(spans.len() >= 22);
    let said = herd.logged("the receiver of traces takes spans again");
    assert_eq!(
        said.matches("the receiver of traces takes no spans").count(),
        1,
        "{said}"
    );
    assert_eq!(dropped(&herd), 0.0);
}

#[test]
fn what_a_receiver_refuses_is_dropped_and_counted() {
    let receiver = Receiver::start("400 Bad Request");
    let herd = start(receiver.address, "");
    get(&herd, "/", "");
    receiver.spans(2);
    poll("the count", || match dropped(&herd) {
        2.0 => Ok(()),
        other => Err(other.to_string()),
    });
    herd.logged("the receiver answers 400 Bad Request");
}

#[test]
fn a_receiver_is_spoken_to_over_tls_if_somebody_vouches_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (known, unknown) = (dir.path().join("known.pem"), dir.path().join("unknown.pem"));
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&known, certified.cert.pem()).unwrap();
    std::fs::write(&unknown, other.cert.pem()).unwrap();
    let receiver = Receiver::secure(&certified);
    let url = format!("https://localhost:{}", receiver.address.port());
    let start = |roots: &std::path::Path| {
        let roots = format!("SSL_CERT_FILE={}", roots.display());
        start_through(&["env", "-u", "SSL_CERT_DIR", &roots], &url, "")
    };
    let herd = start(&unknown);
    get(&herd, "/", "");
    let said = herd.logged("the receiver of traces takes no spans");
    assert!(said.contains("certificate"), "{said}");
    assert!(receiver.came.batches.lock().unwrap().is_empty());
    drop(herd);
    let herd = start(&known);
    get(&herd, "/", "");
    assert_eq!(receiver.spans(2).len(), 2);
    drop(herd);
}

#[test]
fn what_was_traced_last_is_sent_before_the_end() {
    let receiver = Receiver::start("200 OK");
    let mut herd = start(receiver.address, "");
    get(&herd, "/", "");
    kill(Pid::from_raw(herd.pid()), Signal::SIGTERM).unwrap();
    assert!(herd.wait().success());
    assert_eq!(receiver.came.batches.lock().unwrap().len(), 1);
}

#[test]
fn a_receiver_that_never_answers_does_not_hold_up_the_end() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut herd = start(silent.local_addr().unwrap(), "");
    get(&herd, "/", "");
    kill(Pid::from_raw(herd.pid()), Signal::SIGTERM).unwrap();
    assert!(herd.wait().success());
}

#[test]
fn without_traces_what_clients_say_of_theirs_passes() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("echo.py");
    std::fs::write(&script, ECHO).unwrap();
    let yaml = format!(
        "network: {{ data_bind: 127.0.0.1:0 }}\nworkers:\n  echo: {{ cmd: [python3, {script:?}, \"{{{{.Port}}}}\"], env: {{ \
         HERD_TEST_TAG: {:?} }} }}\n",
        dir.path().display().to_string()
    );
    let herd = Running::launch_with(dir, Mode::Own, &yaml).ready();
    let answer = get(&herd, "/", "traceparent: what ever\r\ntracestate: a=b\r\n");
    assert_eq!(sent(&answer, "traceparent").as_deref(), Some("what ever"));
    assert_eq!(sent(&answer, "tracestate").as_deref(), Some("a=b"));
    let answer = get(&herd, "/", "");
    assert_eq!(sent(&answer, "traceparent"), None);
}
