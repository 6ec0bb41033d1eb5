//! The real driver with a crew of fakes: each worker is a thread behind a UNIX socket whose answers
//! depend on the path.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::access::{Access, InForce, Secrets};
use crate::config::Config;
use crate::core::{Exit, SessionId, WorkerId};
use crate::driver::{Among, Cause, Crew, Driver, Next, Shutdown};
use crate::proxy::{Identity, Proxy, Server, Tls};
use crate::worker::{Death, Endpoint, Event, Logs, Make};

const PATIENCE: Duration = Duration::from_secs(20);

/// What the test and the fake workers share.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) starts: AtomicUsize,
    dir: PathBuf,
    events: mpsc::Sender<Event>,
    sockets: Mutex<HashMap<WorkerId, Vec<UnixStream>>>,
}

impl Stage {
    /// The worker is gone, with all of its connections.
    fn end(&self, worker: WorkerId, exit: Exit) {
        let sockets = self.sockets.lock().unwrap().remove(&worker);
        if let Some(sockets) = sockets {
            // The news of a death and the broken connection come in no certain order.
            let death = Death {
                pids: vec![],
                processes: 1,
                memory: 0,
                took: Duration::ZERO,
                survivors: 0,
                exit,
            };
            for socket in sockets {
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }
            self.events.blocking_send(Event::Gone { worker, death }).unwrap();
        }
    }
}

struct Fakes(Arc<Stage>);

impl Crew for Fakes {
    fn start(&mut self, worker: WorkerId, _: &Make, _: Option<&SessionId>) {
        let stage = Arc::clone(&self.0);
        stage.starts.fetch_add(1, Ordering::SeqCst);
        stage.sockets.lock().unwrap().insert(worker, Vec::new());
        let path: PathBuf = stage.dir.join(worker.to_string());
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let ready = Event::Ready {
                worker,
                endpoint: Endpoint::Unix(Arc::new(path)),
            };
            stage.events.blocking_send(ready).unwrap();
            for socket in listener.incoming().flatten() {
                let Some(()) = stage
                    .sockets
                    .lock()
                    .unwrap()
                    .get_mut(&worker)
                    .map(|all| all.push(socket.try_clone().unwrap()))
                else {
                    return;
                };
                let stage = Arc::clone(&stage);
                std::thread::spawn(move || {
                    let _ = serve(&stage, worker, &socket);
                    let _ = socket.shutdown(std::net::Shutdown::Both);
                });
            }
        });
    }

    fn memory(&mut self) -> Option<crate::core::Memory> {
        None
    }

    fn watch(&mut self, _: WorkerId, _: Option<crate::worker::Probes>) {}

    fn terminate(&mut self, worker: WorkerId) {
        self.kill(worker);
    }

    fn kill(&mut self, worker: WorkerId) {
        let stage = Arc::clone(&self.0);
        std::thread::spawn(move || stage.end(worker, Exit::Signal(9)));
    }

    fn kill_switch(&self, _: WorkerId) -> Option<Arc<crate::worker::KillSwitch>> {
        None
    }

    fn pid(&self, _: WorkerId) -> Option<i32> {
        None
    }

    fn plans(&self) -> crate::worker::Plans {
        crate::worker::Plans::new()
    }

    fn renew(&mut self, _: &[Arc<crate::worker::Plan>], _: &std::collections::BTreeSet<&str>) {}

    fn logs(&self, _: WorkerId) -> Option<Arc<Logs>> {
        None
    }

    fn forget(&mut self, _: WorkerId) {}
}

/// A message's head, as sent.
fn head(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        if &head[before..] == "\r\n" {
            return Ok(Some(head));
        }
    }
}

pub(super) fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (n, value) = line.split_once(':')?;
        n.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The body's bytes and, if it was chunked, its trailers.
fn body(head: &str, reader: &mut impl BufRead) -> io::Result<(Vec<u8>, String)> {
    let mut body = Vec::new();
    if field(head, "transfer-encoding").is_none() {
        let length = field(head, "content-length").map_or(0, |v| v.parse().unwrap());
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        return Ok((body, String::new()));
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16)
            .map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        if size == 0 {
            let mut trailers = String::new();
            while !trailers.ends_with("\r\n\r\n") && trailers != "\r\n" {
                if reader.read_line(&mut trailers)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            return Ok((body, trailers));
        }
        let start = body.len();
        body.resize(start + size + 2, 0);
        reader.read_exact(&mut body[start..])?;
        body.truncate(start + size);
    }
}

fn answer(socket: &mut impl Write, text: &[u8]) -> io::Result<()> {
    write!(
        socket,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Herd-Error: mine\r\n\r\n",
        text.len()
    )?;
    socket.write_all(text)
}

fn serve(stage: &Stage, worker: WorkerId, socket: &UnixStream) -> io::Result<()> {
    let mut out = socket;
    let mut reader = BufReader::new(socket);
    while let Some(head) = head(&mut reader)? {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        match path.split('?').next().unwrap_or_default() {
            "/head" | "/" => answer(&mut out, head.as_bytes())?,
            "/worker" => answer(&mut out, worker.to_string().as_bytes())?,
            "/count" => {
                let (body, trailers) = body(&head, &mut reader)?;
                answer(&mut out, format!("{} {trailers}", body.len()).as_bytes())?;
            }
            "/ask" => {
                out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                let (body, _) = body(&head, &mut reader)?;
                answer(&mut out, &body)?;
            }
            "/decline" => {
                out.write_all(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")?;
            }
            "/trailers" => out.write_all(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Herd-Error, X-Session-ID\r\n\r\n\
                  2\r\nhi\r\n0\r\nX-Sum: 7\r\nX-Herd-Error: faked\r\nX-Session-ID: faked\r\n\r\n",
            )?,
            "/crash" => {
                stage.end(worker, Exit::Signal(11));
                return Ok(());
            }
            "/crash-mid-body" => {
                out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")?;
                let mut word = [0];
                let _ = reader.read(&mut word);
                return Ok(());
            }
            "/json-cut" | "/json-crash" => {
                out.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"a\"",
                )?;
                if path == "/json-crash" {
                    stage.end(worker, Exit::Signal(11));
                }
                return Ok(());
            }
            "/crash-at-close" => {
                out.write_all(b"HTTP/1.1 200 OK\r\n\r\npart")?;
                stage.end(worker, Exit::Signal(11));
                return Ok(());
            }
            "/until-close" => {
                out.write_all(b"HTTP/1.1 200 OK\r\n\r\nwhole")?;
                return Ok(());
            }
            "/hang-up" => return Ok(()),
            "/garbage" => {
                out.write_all(b"what?\r\n\r\n")?;
                return Ok(());
            }
            "/large" => {
                write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 32 << 20)?;
                for _ in 0..32 {
                    out.write_all(&vec![b'x'; 1 << 20])?;
                }
            }
            "/events" => {
                out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")?;
                // Held open until herd goes.
                let _ = reader.read(&mut [0]);
                return Ok(());
            }
            "/deaf" => {
                // Not a byte of the body is read while herd keeps the connection.
                let mut gone = [nix::poll::PollFd::new(
                    std::os::fd::AsFd::as_fd(socket),
                    nix::poll::PollFlags::POLLHUP,
                )];
                nix::poll::poll(&mut gone, nix::poll::PollTimeout::NONE).map_err(io::Error::from)?;
                return Ok(());
            }
            "/silent" => {
                let _ = reader.read(&mut [0]);
                return Ok(());
            }
            "/echo" => {
                let accept = field(&head, "sec-websocket-key").unwrap_or_default();
                let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(accept.as_bytes());
                let protocol = field(&head, "upgrade").unwrap_or_default();
                write!(
                    out,
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
                     Sec-WebSocket-Accept: {accept}\r\n\r\n"
                )?;
                let mut buffer = [0; 65536];
                loop {
                    let n = reader.read(&mut buffer)?;
                    if n == 0 {
                        // Its own half goes on a little, to show that a half-close is only that.
                        out.write_all(b"bye")?;
                        return Ok(());
                    }
                    if &buffer[..n] == b"crash" {
                        stage.end(worker, Exit::Signal(11));
                        return Ok(());
                    }
                    out.write_all(&buffer[..n])?;
                }
            }
            "/switch" => {
                // To what the request says, and with nothing else.
                let fields = field(&head, "x-answer").unwrap_or_default().replace('|', "\r\n");
                write!(out, "HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\nthrough")?;
            }
            _ => out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
        }
    }
    Ok(())
}

/// A herd with fake workers.
pub(super) struct Herd {
    pub(super) addr: SocketAddr,
    pub(super) stage: Arc<Stage>,
    pub(super) handle: crate::driver::Handle,
    pub(super) access: Option<Arc<Access>>,
    text: String,
    _shutdown: mpsc::Sender<Shutdown>,
    proxy: Option<Proxy>,
    /// Not the stage's, which threads keep that outlive the test.
    _dir: tempfile::TempDir,
}

impl Herd {
    /// `network` and `kind` are further lines of the configuration.
    pub(super) fn start(network: &str, kind: &str) -> Self {
        Self::start_with(network, kind, "")
    }

    /// So are `more`, which begin a section.
    pub(super) fn start_with(network: &str, kind: &str, more: &str) -> Self {
        Self::start_as((network, kind, more), None)
    }

    /// With a certificate that the test may change, instead of one read from the files that `network` names.
    pub(super) fn start_with_tls(network: &str, tls: Arc<Tls>) -> Self {
        Self::start_as((network, "", ""), Some(tls))
    }

    fn start_as((network, kind, more): (&str, &str, &str), tls: Option<Arc<Tls>>) -> Self {
        let text = format!(
            "network:\n  data_bind: 127.0.0.1:0\n{network}\nworkers:\n  fake:\n    cmd: [\"fake\", \"{{{{.Socket}}}}\"]\n    max: 4\n    ttl: 10m\n{kind}\n{more}\n"
        );
        let config: Arc<Config> = Arc::new(crate::config::parse(&text, "herd.yaml").unwrap());
        let (events, inbox) = mpsc::channel(64);
        let dir = tempfile::tempdir().unwrap();
        let stage = Arc::new(Stage {
            starts: AtomicUsize::new(0),
            dir: dir.path().to_owned(),
            events,
            sockets: Mutex::default(),
        });
        let tls = tls.or_else(|| {
            let files = config.network.tls.as_ref()?;
            Some(Arc::new(Tls::with(Identity::read(files).unwrap())))
        });
        let server = Server::bind(&config).unwrap().with_tls(tls);
        let addr = server.local_addr().unwrap();
        let access = Access::new(&config, Secrets::read(&config).unwrap(), addr.port());
        let first = InForce {
            config,
            access: access.clone(),
        };
        let (mut driver, handle) = Driver::new(first, Fakes(Arc::clone(&stage)));
        let (shutdown, signals) = mpsc::channel(1);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(driver.run(inbox, signals));
        });
        let proxy = server.serve(handle.clone(), 2).unwrap();
        Self {
            access,
            text,
            addr,
            stage,
            handle,
            _shutdown: shutdown,
            proxy: Some(proxy),
            _dir: dir,
        }
    }

    /// A client in each of the four workers, whose requests are not answered: of the sessions `s0` to `s3`.
    pub(super) fn filled(&self) -> Vec<Client> {
        let client = |number| {
            let mut client = self.connect();
            client.send(&format!(
                "GET /silent HTTP/1.1\r\nHost: h\r\nX-Session-ID: s{number}\r\n\r\n"
            ));
            client
        };
        let held = (0..4).map(client).collect();
        self.until("four sessions", |views| {
            views.iter().filter(|view| view.holders == 1).count() == 4
        });
        held
    }

    /// Sessions that wait.
    pub(super) fn queued(&self) -> usize {
        Self::block_on(self.handle.pools()).unwrap().kinds[0].queued
    }

    pub(super) fn stop(&self, id: &str) {
        let id = SessionId::parse(id.as_bytes()).unwrap();
        Self::block_on(self.handle.stop(id, None)).unwrap();
    }

    /// Puts another text in the file's place in force.
    pub(super) fn reload(&self, change: impl FnOnce(&str) -> String) {
        let config = crate::config::parse(&change(&self.text), "herd.yaml").unwrap();
        let next = Next {
            secrets: Secrets::read(&config).unwrap(),
            config,
            plans: crate::worker::Plans::new(),
        };
        Self::block_on(self.handle.reconfigure(next, Cause::Signal)).unwrap();
    }

    pub(super) fn starts(&self) -> usize {
        self.stage.starts.load(Ordering::SeqCst)
    }

    pub(super) fn connect(&self) -> Client {
        let socket = TcpStream::connect(self.addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Client {
            reader: BufReader::new(socket),
        }
    }

    /// One request on a connection of its own, for session `s`.
    pub(super) fn get(&self, path: &str, fields: &str) -> Answer {
        let mut client = self.connect();
        client.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n{fields}\r\n"
        ));
        client.answer()
    }

    pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    /// Until the session's listing satisfies `wanted`.
    pub(super) fn until(&self, what: &str, wanted: impl Fn(&[crate::driver::SessionView]) -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let views = Self::block_on(self.handle.list(Among::All)).unwrap();
            if wanted(&views) {
                return;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "waited for {what}; last: {views:?}"
            );
            std::thread::yield_now();
        }
    }

    pub(super) fn proxy(&mut self) -> Proxy {
        self.proxy.take().unwrap()
    }
}

pub(super) struct Client {
    pub(super) reader: BufReader<TcpStream>,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    pub(super) trailers: String,
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(super) fn code(&self) -> &str {
        field(&self.head, "x-herd-error").unwrap_or("")
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    pub(super) fn send(&mut self, text: &str) {
        self.reader.get_mut().write_all(text.as_bytes()).unwrap();
    }

    pub(super) fn head(&mut self) -> String {
        head(&mut self.reader)
            .unwrap()
            .expect("the connection ended before an answer")
    }

    pub(super) fn try_answer(&mut self) -> io::Result<Answer> {
        let head = head(&mut self.reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let (body, trailers) =
            if field(&head, "content-length").is_none() && field(&head, "transfer-encoding").is_none() {
                let mut rest = Vec::new();
                if !head.contains(" 204 ") {
                    self.reader.read_to_end(&mut rest)?;
                }
                (rest, String::new())
            } else {
                body(&head, &mut self.reader)?
            };
        Ok(Answer { head, body, trailers })
    }

    pub(super) fn answer(&mut self) -> Answer {
        self.try_answer().unwrap()
    }

    pub(super) fn read(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub(super) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).map(|_| rest)
    }

    pub(super) fn shutdown_write(&self) {
        self.reader.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    }
}
