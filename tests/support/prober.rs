//! A worker that tries to get out of its sandbox, for tests: each request is one probe in JSON, each answer what
//! came of it, `{"ok": …}` or `{"errno": …}`.
//!
//! ```text
//! prober PORT | SOCKET
//! prober once FILE        shows the file, as whoever it is
//! ```
//!
//! A probe runs in a process of its own: one that succeeds where it must not, or dies, changes nothing for the
//! next. It is for the tests to ask only for what does no harm even where no sandbox holds.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a probe that cannot go on stops"
)]

use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Probe {
    /// A raw system call.
    Call(Call),
    /// Opens and closes.
    Open {
        path: PathBuf,
        flags: i32,
    },
    Read {
        path: PathBuf,
    },
    List {
        path: PathBuf,
    },
    Link {
        path: PathBuf,
    },
    /// A new file.
    Write {
        path: PathBuf,
        text: String,
    },
    Connect(Address),
    /// So many children that do nothing, killed again; how many there were, and what refused the next.
    Fork {
        count: usize,
    },
    /// In the prober itself, which does not survive it.
    Allocate {
        mebibytes: usize,
    },
    /// One file of so many bytes, removed again; how many went in, and what refused the next.
    Fill {
        path: PathBuf,
        bytes: usize,
    },
    /// So many empty files, removed again; likewise.
    Files {
        directory: PathBuf,
        count: usize,
    },
    /// To standard output.
    Say {
        line: String,
        times: usize,
    },
    Run {
        argv: Vec<String>,
    },
    /// Where the prober listens a link is put instead.
    Elsewhere {
        to: PathBuf,
    },
    /// The descriptors that the program began with, and where they lead.
    Descriptors {},
}

#[derive(Deserialize)]
struct Call {
    number: i64,
    arguments: Vec<Argument>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Argument {
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
    /// What another call returns, a descriptor for instance.
    Result(Call),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Address {
    Tcp(std::net::SocketAddr),
    Unix(PathBuf),
    Abstract(String),
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

fn main() {
    let descriptors = descriptors().expect("/proc/self/fd");
    let place = std::env::args().nth(1).expect("a port or a socket");
    if place == "once" {
        let file = std::env::args().nth(2).expect("a file");
        print!("{}", fs::read_to_string(file).expect("it can be read"));
        return;
    }
    let listener = match place.parse::<u16>() {
        Ok(port) => Listener::Tcp(TcpListener::bind(("127.0.0.1", port)).expect("the port is free")),
        Err(_) => Listener::Unix(UnixListener::bind(&place).expect("the socket can be made")),
    };
    children_end(libc::SIG_IGN);
    loop {
        let stream: io::Result<Box<dyn Stream>> = match &listener {
            Listener::Tcp(listener) => listener.accept().map(|(stream, _)| Box::new(stream) as _),
            Listener::Unix(listener) => listener.accept().map(|(stream, _)| Box::new(stream) as _),
        };
        let Ok(mut stream) = stream else { continue };
        // Whoever only looks whether somebody listens sends nothing.
        let Ok(body) = request(&mut *stream) else { continue };
        let answer = match serde_json::from_slice(&body) {
            Ok(Probe::Allocate { mebibytes }) => allocate(mebibytes),
            Ok(probe) => {
                // SAFETY: this process has one thread.
                match unsafe { libc::fork() } {
                    0 => {
                        children_end(libc::SIG_DFL);
                        let answer = outcome(run(probe, &descriptors, &place));
                        respond(&mut *stream, &answer);
                        // SAFETY: ends the process and nothing else.
                        unsafe { libc::_exit(0) }
                    }
                    -1 => outcome(Err(io::Error::last_os_error())),
                    _ => continue,
                }
            }
            Err(e) => json!({"misunderstood": e.to_string()}),
        };
        respond(&mut *stream, &answer);
    }
}

/// Ignored means that the kernel reaps them.
fn children_end(disposition: libc::sighandler_t) {
    // SAFETY: neither value is a handler.
    unsafe { libc::signal(libc::SIGCHLD, disposition) };
}

/// The body, which its length precedes.
fn request(stream: &mut dyn Stream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0].to_ascii_lowercase());
    }
    let head = String::from_utf8_lossy(&head);
    let length = head
        .split_once("content-length:")
        .and_then(|(_, rest)| rest.lines().next()?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn respond(stream: &mut dyn Stream, answer: &Value) {
    let body = answer.to_string();
    let length = body.len();
    // Whoever asked may have gone.
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
}

fn outcome(result: io::Result<Value>) -> Value {
    match result {
        Ok(value) => json!({"ok": value}),
        Err(e) => match (e.raw_os_error(), e.kind()) {
            (Some(errno), _) => json!({"errno": errno}),
            (None, io::ErrorKind::TimedOut) => json!({"errno": libc::ETIMEDOUT}),
            (None, _) => json!({"error": e.to_string()}),
        },
    }
}

fn run(probe: Probe, descriptors: &Value, place: &str) -> io::Result<Value> {
    match probe {
        Probe::Call(probe) => call(probe).map(|result| json!(result)),
        Probe::Open { path, flags } => {
            let path = CString::new(path.to_string_lossy().as_bytes())?;
            // SAFETY: a NUL-terminated path and integers.
            let fd = checked(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }.into())?;
            Ok(json!(fd))
        }
        Probe::Read { path } => {
            let mut bytes = Vec::new();
            fs::File::open(path)?.take(1 << 20).read_to_end(&mut bytes)?;
            Ok(json!(String::from_utf8_lossy(&bytes)))
        }
        Probe::List { path } => {
            let names = fs::read_dir(path)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<_>>>()?;
            Ok(json!(names))
        }
        Probe::Link { path } => Ok(json!(fs::read_link(path)?)),
        Probe::Write { path, text } => {
            let new = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(path);
            new?.write_all(text.as_bytes())?;
            Ok(json!(text.len()))
        }
        Probe::Connect(address) => connect(&address).map(|()| json!("connected")),
        Probe::Fork { count } => Ok(forks(count)),
        Probe::Allocate { mebibytes } => Ok(allocate(mebibytes)),
        Probe::Fill { path, bytes } => {
            let filled = fill(&path, bytes);
            let _ = fs::remove_file(path);
            filled
        }
        Probe::Files { directory, count } => Ok(files(&directory, count)),
        Probe::Say { line, times } => {
            let mut out = io::stdout().lock();
            for _ in 0..times {
                writeln!(out, "{line}")?;
            }
            Ok(json!(times))
        }
        Probe::Run { argv } => {
            let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
            let output = std::process::Command::new(program).args(arguments).output()?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Ok(json!({
                "code": output.status.code(), "out": text(&output.stdout), "err": text(&output.stderr)
            }))
        }
        Probe::Elsewhere { to } => {
            fs::remove_file(place)?;
            std::os::unix::fs::symlink(to, place)?;
            Ok(json!(place))
        }
        Probe::Descriptors {} => Ok(descriptors.clone()),
    }
}

fn descriptors() -> io::Result<Value> {
    let mut found = serde_json::Map::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        let leads = fs::read_link(&path)?.display().to_string();
        let number = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // The one that reads this directory.
        if !leads.ends_with("/fd") {
            found.insert(number, json!(leads));
        }
    }
    Ok(Value::Object(found))
}

fn checked(result: i64) -> io::Result<i64> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(result),
    }
}

fn call(call: Call) -> io::Result<i64> {
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    let mut words = [0_i64; 6];
    for (word, argument) in words.iter_mut().zip(call.arguments) {
        let bytes = match argument {
            Argument::Number(number) => {
                *word = number;
                continue;
            }
            Argument::Result(inner) => {
                *word = self::call(inner)?;
                continue;
            }
            Argument::Text(mut text) => {
                text.push('\0');
                text.into_bytes()
            }
            Argument::Bytes(bytes) => bytes,
        };
        *word = bytes.as_ptr() as i64;
        buffers.push(bytes);
    }
    let [a, b, c, d, e, f] = words;
    // SAFETY: none: what the kernel is asked for is the test's to answer for. The buffers live until it returns.
    let result = unsafe { libc::syscall(call.number, a, b, c, d, e, f) };
    let child = [libc::SYS_clone, libc::SYS_clone3].contains(&call.number) && result == 0;
    if child {
        // SAFETY: ends the process and nothing else.
        unsafe { libc::_exit(0) }
    }
    drop(buffers);
    checked(result)
}

fn connect(address: &Address) -> io::Result<()> {
    match address {
        Address::Tcp(address) => TcpStream::connect_timeout(address, Duration::from_secs(20)).map(drop),
        Address::Unix(path) => UnixStream::connect(path).map(drop),
        Address::Abstract(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?).map(drop),
    }
}

fn forks(count: usize) -> Value {
    let mut children = Vec::new();
    let mut refusal = None;
    for _ in 0..count {
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            },
            -1 => {
                refusal = io::Error::last_os_error().raw_os_error();
                break;
            }
            pid => children.push(pid),
        }
    }
    for child in &children {
        // SAFETY: an own child that is not reaped yet.
        unsafe { libc::kill(*child, libc::SIGKILL) };
        // SAFETY: its status is not asked for.
        unsafe { libc::waitpid(*child, std::ptr::null_mut(), 0) };
    }
    json!({"made": children.len(), "refusal": refusal})
}

/// Written to, for only then does it take memory.
fn allocate(mebibytes: usize) -> Value {
    let mut held = Vec::new();
    for _ in 0..mebibytes {
        held.push(vec![1_u8; 1 << 20]);
    }
    json!({"ok": std::hint::black_box(held).len()})
}

fn fill(path: &std::path::Path, bytes: usize) -> io::Result<Value> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    let block = vec![0; 64 << 10];
    let mut written = 0;
    let mut refusal = None;
    while written < bytes && refusal.is_none() {
        match file.write(&block) {
            Ok(more) => written += more,
            Err(e) => refusal = e.raw_os_error(),
        }
    }
    Ok(json!({"made": written, "refusal": refusal}))
}

fn files(directory: &std::path::Path, count: usize) -> Value {
    let path = |number: usize| directory.join(format!("file-{number}"));
    let mut made = 0;
    let mut refusal = None;
    while made < count && refusal.is_none() {
        match fs::File::create_new(path(made)) {
            Ok(_) => made += 1,
            Err(e) => refusal = e.raw_os_error(),
        }
    }
    for number in 0..made {
        let _ = fs::remove_file(path(number));
    }
    json!({"made": made, "refusal": refusal})
}
