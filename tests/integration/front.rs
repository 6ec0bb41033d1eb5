//! herd behind the nginx and the haproxy of `examples/front`, and with TLS of its own, asked by curl and over WebSockets.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::running::{HERD, Running, poll};
use crate::skip::skipped;
use crate::supervised::Mode;

/// A directory with a certificate for 127.0.0.1 that vouches for itself.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    fs::write(dir.path().join("herd.crt"), made.cert.pem()).unwrap();
    let key = dir.path().join("herd.key");
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    dir
}

/// A herd in that directory; `network` are further keys.
fn herd(dir: tempfile::TempDir, network: &str) -> Running {
    let at = dir.path().display().to_string();
    let network = network.replace("DIR", &at);
    let script = dir.path().join("worker.py");
    fs::write(&script, include_str!("proxy/worker.py")).unwrap();
    // `runner` echoes WebSockets, `told` answers with what it was sent.
    let yaml = format!(
        "network: {{ data_bind: 127.0.0.1:0, {network} }}\n\
         defaults: {{ sandbox: off, env: {{ HERD_TEST_TAG: {at:?} }} }}\n\
         workers:\n\
         \x20 runner: {{ cmd: [{HERD}, runner, --listen, \"{{{{.Port}}}}\"] }}\n\
         \x20 told: {{ cmd: [python3, {script:?}, \"{{{{.Port}}}}\"] }}\n"
    );
    Running::launch_with(dir, Mode::Own, &yaml).ready()
}

const TLS: &str = "tls: { cert: DIR/herd.crt, key: DIR/herd.key }";

/// Whether these can be run; says so loudly if not.
fn installed(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &&str| std::env::split_paths(&path).any(|dir| dir.join(program).exists());
    match programs.iter().find(|program| !found(program)) {
        Some(missing) => skipped(&format!("{missing} is not installed")),
        None => return true,
    }
    false
}

/// A proxy in front, ended by being dropped.
struct Front {
    child: Child,
    address: SocketAddr,
}

impl Drop for Front {
    fn drop(&mut self) {
        // Not SIGKILL, which would leave its own workers behind.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// One of `examples/front`, with other addresses, started by `command` with its path.
fn front(herd: &Running, example: &str, command: &[&str], replace: &[(&str, &str)]) -> Front {
    let dir = herd.dir.path();
    // Closed again at once, so that the proxy can have it.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples/front")
        .join(example);
    let mut text = fs::read_to_string(source).unwrap();
    let (port, upstream) = (address.port().to_string(), herd.data_address().unwrap());
    let at = dir.display().to_string();
    let common = [
        ("8443", port.as_str()),
        ("127.0.0.1:8080", &upstream),
        ("/etc/nginx", &at),
    ];
    for (from, to) in common.iter().chain(replace) {
        let changed = text.replace(from, to);
        assert!(
            changed != text || *from == "/etc/nginx",
            "{example} has no {from}"
        );
        text = changed;
    }
    let path = dir.join(example);
    fs::write(&path, text).unwrap();
    let [program, arguments @ ..] = command else {
        panic!("a program was expected")
    };
    #[expect(clippy::disallowed_methods, reason = "a proxy is no worker")]
    let child = Command::new(program)
        .args(arguments)
        .arg(&path)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut front = Front { child, address };
    poll("the proxy listens", || {
        let ended = front.child.try_wait().unwrap();
        assert!(ended.is_none(), "{program} ended: {ended:?}");
        TcpStream::connect(address).map_err(|e| e.to_string())
    });
    front
}

fn nginx(herd: &Running) -> Front {
    let own = "worker_processes auto;\ndaemon off;\npid nginx.pid;\nerror_log stderr warn;";
    let temporary = "http {\nclient_body_temp_path t;\nproxy_temp_path t;\nfastcgi_temp_path t;\nuwsgi_temp_path t;\nscgi_temp_path t;";
    front(
        herd,
        "nginx.conf",
        &["nginx", "-p", ".", "-e", "stderr", "-c"],
        &[("worker_processes auto;", own), ("http {", temporary)],
    )
}

/// curl's answer with its head, for this session.
fn curl(dir: &Path, address: &str, id: &str, arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["-sS", "-i", "--max-time", "60", "--cacert"])
        .arg(dir.join("herd.crt"))
        .arg("-H")
        .arg(format!("X-Session-ID: {id}"))
        .args(["-H", "X-Herd-Worker: told"])
        .args(arguments)
        .arg(format!("https://{address}/"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// A WebSocket to the worker's echo, for as long as `during` takes, as a page that came from the same address opens it.
fn with_websocket(dir: &Path, address: &str, id: &str, during: impl FnOnce()) {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(dir.join("herd.crt")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut request = format!("wss://{address}/v1/echo").into_client_request().unwrap();
    request.headers_mut().insert("x-session-id", id.parse().unwrap());
    let page = format!("https://{address}").parse().unwrap();
    request.headers_mut().insert("origin", page);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let socket = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        for size in [1, 100_000, 3_000_000] {
            let sent = vec![b'x'; size];
            socket.send(Message::binary(sent.clone())).await.unwrap();
            let echoed = socket.next().await.unwrap().unwrap();
            assert!(echoed.into_data() == sent, "{size} bytes came back otherwise");
        }
        socket
    });
    during();
    drop(socket);
}

fn same_session_twice(herd: &Running, address: &str, arguments: &[&str]) -> String {
    let first = curl(herd.dir.path(), address, "u", arguments);
    assert!(
        first
            .to_ascii_lowercase()
            .contains("x-herd-session-state: created"),
        "{first}"
    );
    let second = curl(herd.dir.path(), address, "u", arguments);
    assert!(
        second
            .to_ascii_lowercase()
            .contains("x-herd-session-state: reused"),
        "{second}"
    );
    second
}

/// A client that leaves takes its worker along, whatever stands between.
fn a_websocket_ends_its_session(herd: &Running, address: &str) {
    with_websocket(herd.dir.path(), address, "ws", || {
        herd.until("ws", "bound");
    });
    let ended = herd.until("ws", "ended");
    assert_eq!(ended["reason"], "disconnected", "{ended}");
}

#[test]
fn curl_and_a_websocket_use_sessions_over_tls() {
    if !installed(&["curl"]) {
        return;
    }
    let herd = herd(directory(), TLS);
    let address = herd.data_address().unwrap();
    let over_h2 = same_session_twice(&herd, &address, &["--http2"]);
    assert!(over_h2.starts_with("HTTP/2 200"), "{over_h2}");
    let over_h1 = curl(herd.dir.path(), &address, "u", &["--http1.1"]);
    assert!(
        over_h1.starts_with("HTTP/1.1 200") && over_h1.contains("https"),
        "{over_h1}"
    );
    a_websocket_ends_its_session(&herd, &address);
}

#[test]
fn nginx_passes_sessions_on() {
    if !installed(&["curl", "nginx"]) {
        return;
    }
    let herd = herd(directory(), "trusted_proxies: [127.0.0.1]");
    let front = nginx(&herd);
    let address = front.address.to_string();
    let told = same_session_twice(&herd, &address, &["-H", "X-Forwarded-For: 192.0.2.1"]);
    assert!(
        told.contains("127.0.0.1, 127.0.0.1") && told.contains("https"),
        "{told}"
    );
    assert!(
        !told.contains("192.0.2.1"),
        "nginx passed a client's own claim: {told}"
    );
    a_websocket_ends_its_session(&herd, &address);
}

#[test]
fn haproxy_passes_connections_on_and_says_whose_they_are() {
    if !installed(&["curl", "haproxy"]) {
        return;
    }
    let network = format!("{TLS}, proxy_protocol: required, trusted_proxies: [127.0.0.1]");
    let herd = herd(directory(), &network);
    let front = front(&herd, "haproxy.cfg", &["haproxy", "-db", "-q", "-f"], &[]);
    let address = front.address.to_string();
    let told = same_session_twice(&herd, &address, &["--interface", "127.0.0.1"]);
    assert!(told.contains("127.0.0.1") && told.contains("https"), "{told}");
    a_websocket_ends_its_session(&herd, &address);
}

#[test]
fn a_certificate_that_cannot_be_used_stops_the_start_and_the_check_with_its_place() {
    let dir = directory();
    fs::set_permissions(dir.path().join("herd.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let file = dir.path().join("herd.yaml");
    let yaml = format!(
        "network:\n  tls:\n    cert: {0}/herd.crt\n    key: {0}/herd.key\nworkers: {{ a: {{ cmd: [a, \"{{{{.Port}}}}\"] }} }}\n",
        dir.path().display()
    );
    fs::write(&file, yaml).unwrap();
    for verb in ["check", "start"] {
        let output = Command::new(HERD)
            .args([verb, "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!output.status.success(), "{verb}: {told}");
        assert!(
            told.contains("herd.yaml:4:10: network.tls.key:") && told.contains("can be read by others"),
            "{verb}: {told}"
        );
    }
}

#[test]
fn a_reload_takes_up_a_renewed_certificate_and_refuses_a_broken_one() {
    if !installed(&["curl"]) {
        return;
    }
    let herd = herd(directory(), TLS);
    let address = herd.data_address().unwrap();
    let dir = herd.dir.path();
    same_session_twice(&herd, &address, &[]);
    let renewed = directory();
    for file in ["herd.crt", "herd.key"] {
        fs::copy(renewed.path().join(file), dir.join(file)).unwrap();
    }
    let reloaded = herd.herd(&["reload"]);
    assert!(reloaded.status.success(), "{reloaded:?}");
    // curl believes in nothing but the new certificate, and the session is still there.
    let answer = curl(dir, &address, "u", &[]);
    assert!(
        answer
            .to_ascii_lowercase()
            .contains("x-herd-session-state: reused"),
        "{answer}"
    );

    fs::write(dir.join("herd.key"), "no key").unwrap();
    let refused = herd.herd(&["reload"]);
    let told = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
    assert!(!refused.status.success(), "{told}");
    assert!(
        told.contains("network.tls.key") && told.contains("has no private key"),
        "{told}"
    );
    curl(dir, &address, "u", &[]);
}
