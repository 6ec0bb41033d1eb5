//! A worker that goes wrong on request, for the fault suite: a server with a thread per connection.
//!
//! ```text
//! faulty PORT|SOCKET [bind=signal|never] [health=signal] [term=ignore] [orphans=1] [user=UID]
//! ```
//!
//! `signal` means after SIGUSR1, by which a test outside of the sandbox decides when. Whatever it takes, it takes in
//! bounds: where no limit holds, no harm is done.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a worker that cannot go on stops; its output is read"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Since this process began.
static WAITING: AtomicUsize = AtomicUsize::new(0);
/// Of those, the peers that have closed.
static LEFT: AtomicUsize = AtomicUsize::new(0);
static HEALTHY: AtomicBool = AtomicBool::new(true);

const FORKERS: usize = 100;
const FORKERS_END: u32 = 10;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next().expect("a port or the path of a socket");
    let settings: BTreeMap<String, String> = arguments
        .filter_map(|pair| pair.split_once('=').map(|(k, v)| (k.into(), v.into())))
        .collect();
    let set = |name: &str, value: &str| settings.get(name).is_some_and(|v| v == value);
    block_signal();
    if set("term", "ignore") {
        // SAFETY: ignoring needs no handler.
        unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    }
    if settings.contains_key("orphans") {
        orphans();
    }
    if set("bind", "signal") {
        wait_for_signal();
    }
    while set("bind", "never") {
        wait_for_signal();
    }
    if set("health", "signal") {
        HEALTHY.store(false, Ordering::SeqCst);
        thread::spawn(|| {
            wait_for_signal();
            HEALTHY.store(true, Ordering::SeqCst);
        });
    }
    let listener = listen(&place).expect("the place is free");
    // As servers do: with the listener in hand.
    if let Some(user) = settings.get("user").and_then(|user| user.parse().ok()) {
        // SAFETY: takes a number; every thread changes with it only if libc's wrapper is called, as here.
        let changed = unsafe { libc::setresuid(user, user, user) };
        println!("setresuid: {}", if changed == 0 { "changed" } else { "refused" });
    }
    let number = listener.as_raw_fd();
    // Ends when the listener was shut down.
    while let Ok((stream, _)) = listener.accept() {
        thread::spawn(move || serve(&stream, number));
    }
    drop(listener);
    loop {
        thread::park();
    }
}

/// A port of the loopback, or a UNIX socket at this path.
fn listen(place: &str) -> io::Result<Socket> {
    let (domain, address) = match place.parse() {
        Ok(port) => (Domain::IPV4, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into()),
        Err(_) => (Domain::UNIX, SockAddr::unix(place)?),
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    if domain == Domain::IPV4 {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address)?;
    socket.listen(128)?;
    Ok(socket)
}

/// With a handler, which never runs: /proc shows that, and that it may be sent from now on.
fn block_signal() {
    extern "C" fn never(_: libc::c_int) {}
    // SAFETY: `set` is initialised by sigemptyset before it is read.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGUSR1);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::signal(libc::SIGUSR1, never as *const () as libc::sighandler_t);
    }
}

fn wait_for_signal() {
    // SAFETY: as above; the signal is blocked in every thread.
    unsafe {
        let mut set = std::mem::zeroed();
        let mut signal = 0;
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGUSR1);
        libc::sigwait(&raw const set, &raw mut signal);
    }
}

/// Grandchildren that left the session and the group, deaf to everything polite; their parents are gone.
fn orphans() {
    for _ in 0..3 {
        // SAFETY: the children call nothing but system calls.
        unsafe {
            if libc::fork() == 0 {
                libc::setsid();
                for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT] {
                    libc::signal(signal, libc::SIG_IGN);
                }
                if libc::fork() == 0 {
                    libc::setsid();
                    loop {
                        libc::pause();
                    }
                }
                libc::_exit(0);
            }
        }
    }
    for _ in 0..3 {
        // SAFETY: no status is asked for.
        unsafe { libc::wait(std::ptr::null_mut()) };
    }
}

fn serve(stream: &Socket, listener: RawFd) {
    let mut reader = BufReader::new(stream);
    // Whoever asked may go at any moment: then the connection is over.
    while let Ok(Some(request)) = Request::read(&mut reader) {
        if answer(&request, stream, &mut reader, listener).is_err() {
            return;
        }
    }
}

struct Request {
    path: String,
    key: String,
    upgrade: String,
}

impl Request {
    fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut key, mut upgrade, mut length) = (String::new(), String::new(), 0);
        loop {
            let mut field = String::new();
            from.read_line(&mut field)?;
            let Some((name, value)) = field.trim_end().split_once(':') else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "sec-websocket-key" => key = value.trim().to_owned(),
                "upgrade" => upgrade = value.trim().to_owned(),
                "content-length" => length = value.trim().parse().unwrap_or(0),
                _ => {}
            }
        }
        io::copy(&mut from.take(length), &mut io::sink())?;
        Ok(Some(Self { path, key, upgrade }))
    }
}

fn answer(request: &Request, mut to: &Socket, from: &mut impl BufRead, listener: RawFd) -> io::Result<()> {
    match request.path.as_str() {
        "/healthz" => {
            let status = match HEALTHY.load(Ordering::SeqCst) {
                true => "200 OK",
                false => "503 Service Unavailable",
            };
            write!(to, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")
        }
        "/silent" => wait_until_it_leaves(from),
        "/stream" => {
            write!(
                to,
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n.\r\n"
            )?;
            wait_until_it_leaves(from)
        }
        "/half" => {
            write!(to, "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n0123456789")?;
            wait_until_it_leaves(from)
        }
        "/short" => {
            write!(to, "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n0123456789")?;
            to.shutdown(Shutdown::Both)
        }
        "/long" => write!(to, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n0123456789"),
        "/v1/echo" => {
            write!(
                to,
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {}\r\n\
                 sec-websocket-accept: {}\r\n\r\n",
                request.upgrade,
                derive_accept_key(request.key.as_bytes())
            )?;
            let mut bytes = [0; 4096];
            loop {
                match from.read(&mut bytes)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => to.write_all(&bytes[..read])?,
                }
            }
        }
        "/seen" => respond(
            to,
            &json!({"waiting": WAITING.load(Ordering::SeqCst), "left": LEFT.load(Ordering::SeqCst)}),
        ),
        "/do/close-listener" => {
            // SAFETY: the main thread keeps it open until this call has woken it.
            unsafe { libc::shutdown(listener, libc::SHUT_RDWR) };
            respond(to, &json!("closed"))
        }
        "/do/orphans" => {
            orphans();
            respond(to, &json!("made"))
        }
        "/do/fork-bomb" => respond(to, &fork_bomb()),
        "/do/allocate" => respond(to, &allocate()),
        "/do/fill" => respond(to, &fill("/tmp/full")),
        "/do/files" => respond(to, &files("/tmp/many")),
        "/do/flood" => respond(to, &flood()),
        _ => respond(to, &json!({"pid": std::process::id()})),
    }
}

fn respond(mut to: &Socket, value: &Value) -> io::Result<()> {
    let body = value.to_string();
    write!(
        to,
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Never answers any more.
fn wait_until_it_leaves(from: &mut impl BufRead) -> io::Result<()> {
    WAITING.fetch_add(1, Ordering::SeqCst);
    // A reset is a departure like any other.
    let _ = io::copy(from, &mut io::sink());
    LEFT.fetch_add(1, Ordering::SeqCst);
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Children that make and reap children all the time; each ends after a while by itself.
fn fork_bomb() -> Value {
    let (mut made, mut refusal) = (0, 0);
    for _ in 0..FORKERS {
        // SAFETY: the children call nothing but system calls.
        unsafe {
            match libc::fork() {
                0 => {
                    libc::alarm(FORKERS_END);
                    loop {
                        if libc::fork() == 0 {
                            libc::usleep(500);
                            libc::_exit(0);
                        }
                        libc::usleep(500);
                        libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG);
                    }
                }
                -1 => refusal = io::Error::last_os_error().raw_os_error().unwrap_or_default(),
                _ => made += 1,
            }
        }
    }
    json!({"made": made, "refusal": refusal})
}

/// At most 256 MiB, whatever is allowed.
fn allocate() -> Value {
    let mut kept = Vec::new();
    for _ in 0..256 {
        let mut mebibyte = vec![0_u8; 1 << 20];
        for page in mebibyte.chunks_mut(4096) {
            page[0] = 1;
        }
        kept.push(mebibyte);
    }
    json!({"made": std::hint::black_box(kept).len()})
}

/// At most 64 MiB.
fn fill(path: &str) -> Value {
    let block = vec![0; 1 << 20];
    let filled = fs::File::create(path).map(|mut file| {
        let mut made = 0;
        let refusal = (0..64).find_map(|_| match file.write(&block) {
            Ok(written) => {
                made += written;
                None
            }
            Err(e) => e.raw_os_error(),
        });
        json!({"made": made, "refusal": refusal})
    });
    filled.unwrap_or_else(|e| json!({"made": 0, "refusal": e.raw_os_error()}))
}

fn files(directory: &str) -> Value {
    if let Err(e) = fs::create_dir(directory) {
        return json!({"made": 0, "refusal": e.raw_os_error()});
    }
    let mut made = 0;
    let refusal = (0..5000).find_map(|n| match fs::File::create(format!("{directory}/{n}")) {
        Ok(_) => {
            made += 1;
            None
        }
        Err(e) => e.raw_os_error(),
    });
    json!({"made": made, "refusal": refusal})
}

/// 32 MiB of lines.
fn flood() -> Value {
    let line = format!("{}\n", "x".repeat(1023));
    let mut out = io::stdout().lock();
    let mut said = 0;
    while said < 32 << 10 && out.write_all(line.as_bytes()).is_ok() {
        said += 1;
    }
    json!({"said": said})
}
