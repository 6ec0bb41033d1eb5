//! How many instructions herd spends on one small request and on one small message of an open tunnel.
//!
//! ```sh
//! .ci/static x86_64-unknown-linux-musl run --release -p hot_path               # compares with instructions.json
//! .ci/static x86_64-unknown-linux-musl run --release -p hot_path -- --update   # writes what was counted there
//! ```
//!
//! Without `.ci/static TARGET`, cargo counts the build with this machine's C library, which chooses its copying functions by
//! the CPU: machines then differ by some per cent.
//!
//! Time on a shared machine varies by more than most changes do; instructions hardly vary at all, so that a change
//! that costs a few per cent shows, in CI, too. What they do not show is the kernel's part: see `targets` for that.
//!
//! The real data plane and the real driver run under valgrind's callgrind in a process of their own; client and
//! worker are threads out here, where nothing is counted. Valgrind knows no clone3, so that there is no launcher
//! in there: a crew names the worker's socket. Each count is the difference between twice as many round trips and
//! as many, which takes start, connecting and ending out of it.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command's output")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use herd::config;
use herd::control::build::Build;
use herd::core::{Exit, SessionId, WorkerId};
use herd::driver::{Crew, Driver, Shutdown};
use herd::proxy::Server;
use herd::worker::{Death, Endpoint, Event, KillSwitch, Logs, Make};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// As in herd itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Round trips of the shorter of two runs.
const TRIPS: u32 = 1000;
/// Of so many runs the one with the fewest instructions counts: what comes on top depends on the time they took.
const RUNS: u32 = 3;
/// Valgrind is slow, but not that slow.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of a message in a tunnel.
const MESSAGE: usize = 64;
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";

/// Counts the instructions of the hot path
#[derive(Debug, Parser)]
#[command(name = "hot_path")]
struct Cli {
    #[command(subcommand)]
    command: Option<Action>,
    /// Write what was counted instead of comparing with it
    #[arg(long)]
    update: bool,
    /// Leave callgrind's files in this directory, for callgrind_annotate
    #[arg(long)]
    keep: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// What runs under valgrind: serve until stdin ends
    #[command(hide = true)]
    Serve { worker: PathBuf },
}

/// instructions.json.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    /// Another compiler, and another C library's copying functions, may well count differently.
    build: String,
    /// How far a count may go up or down, in per cent, before somebody has to look.
    tolerance: f64,
    instructions: BTreeMap<String, f64>,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(Action::Serve { worker }) = cli.command {
        serve(worker)?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let recorded: Recorded =
        serde_json::from_str(&fs::read_to_string(&path).with_context(|| path.display().to_string())?)?;
    let mut counted = BTreeMap::new();
    for (name, trips) in [("request", Trips::Requests), ("message", Trips::Messages)] {
        counted.insert(name.to_owned(), count(trips, cli.keep.as_deref())?);
    }
    if cli.update {
        let recorded = Recorded {
            build: build(),
            instructions: counted,
            ..recorded
        };
        fs::write(&path, serde_json::to_string_pretty(&recorded)? + "\n")?;
        println!("{} holds {:.0?}", path.display(), recorded.instructions);
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(u8::from(!judge(&recorded, &counted)?)))
}

/// Whether every count is near what is recorded.
fn judge(recorded: &Recorded, counted: &BTreeMap<String, f64>) -> anyhow::Result<bool> {
    let mut near = true;
    for (name, now) in counted {
        let before = recorded
            .instructions
            .get(name)
            .with_context(|| format!("nothing recorded for {name}: run with --update"))?;
        let change = (now / before - 1.0) * 100.0;
        let verdict = match change {
            change if change > recorded.tolerance => "WORSE",
            change if change < -recorded.tolerance => "better than recorded",
            _ => "as recorded",
        };
        near &= change.abs() <= recorded.tolerance;
        println!("instructions per {name}: {now:.0}, recorded {before:.0} ({change:+.2} %): {verdict}");
    }
    if !near {
        println!(
            "more than {} % away: if that is meant, record it with --update and say why in the commit",
            recorded.tolerance
        );
        if build() != recorded.build {
            println!(
                "recorded with {}, counted with {}: that alone can be the reason",
                recorded.build,
                build()
            );
        }
    }
    Ok(near)
}

/// What the counted code was compiled with, and for what.
fn build() -> String {
    let Build { target, rustc, .. } = Build::this();
    format!("rustc {rustc}, {target}")
}

/// What a run consists of.
#[derive(Debug, Clone, Copy)]
enum Trips {
    Requests,
    Messages,
}

/// Instructions per round trip.
fn count(trips: Trips, keep: Option<&Path>) -> anyhow::Result<f64> {
    let (mut shorter, mut longer) = (u64::MAX, u64::MAX);
    for _ in 0..RUNS {
        shorter = shorter.min(run(trips, TRIPS, keep)?);
        longer = longer.min(run(trips, 2 * TRIPS, keep)?);
    }
    let more = longer
        .checked_sub(shorter)
        .context("twice the work took fewer instructions")?;
    Ok(more as f64 / f64::from(TRIPS))
}

/// All instructions of a process that forwards so many round trips.
fn run(trips: Trips, n: u32, keep: Option<&Path>) -> anyhow::Result<u64> {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("worker.sock");
    let listener = UnixListener::bind(&socket)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Ends with herd's connection.
            std::thread::spawn(move || work(stream));
        }
    });
    let out = keep
        .unwrap_or(dir.path())
        .join(format!("callgrind.out.{trips:?}.{n}"));
    let mut counted = Counted::start(&socket, &out)?;
    let addr = counted.address()?;
    match trips {
        Trips::Requests => requests(addr, n)?,
        Trips::Messages => messages(addr, n)?,
    }
    counted.end()?;
    let text = fs::read_to_string(&out).context("valgrind has written nothing")?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.context("valgrind has written no totals")?.trim().parse()?)
}

/// This program under callgrind.
#[derive(Debug)]
struct Counted(Child);

impl Counted {
    #[allow(clippy::disallowed_methods, reason = "a benchmark is no herd")]
    fn start(worker: &Path, out: &Path) -> anyhow::Result<Self> {
        let child = Command::new("valgrind")
            .args(["--tool=callgrind", "--quiet"])
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(std::env::current_exe()?)
            .arg("serve")
            .arg(worker)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run valgrind (Debian: apt-get install --no-install-recommends valgrind)")?;
        Ok(Self(child))
    }

    /// Its first line.
    fn address(&mut self) -> anyhow::Result<SocketAddr> {
        let mut line = String::new();
        let out = self.0.stdout.take().context("it has no output")?;
        BufReader::new(out).read_line(&mut line)?;
        line.trim()
            .parse()
            .with_context(|| format!("no address: {line:?}"))
    }

    fn end(&mut self) -> anyhow::Result<()> {
        drop(self.0.stdin.take());
        let status = self.0.wait()?;
        anyhow::ensure!(status.success(), "valgrind: {status}");
        Ok(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // After an error; fails if it has been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn connect(addr: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn request(fields: &str) -> String {
    format!(
        "GET /small HTTP/1.1\r\nHost: localhost\r\nUser-Agent: hot_path\r\nAccept: */*\r\nX-Session-ID: one\r\n{fields}\r\n"
    )
}

/// One connection, one request after the other.
fn requests(addr: SocketAddr, n: u32) -> anyhow::Result<()> {
    let stream = connect(addr)?;
    let mut reader = BufReader::new(&stream);
    for _ in 0..n {
        (&stream).write_all(request("").as_bytes())?;
        let head = head(&mut reader)?.context("the connection ended")?;
        anyhow::ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
        reader.read_exact(&mut [0; 2])?;
    }
    Ok(())
}

/// One tunnel, one message after the other.
fn messages(addr: SocketAddr, n: u32) -> anyhow::Result<()> {
    let stream = connect(addr)?;
    (&stream).write_all(request(UPGRADE).as_bytes())?;
    let mut reader = BufReader::new(&stream);
    let head = head(&mut reader)?.context("the connection ended")?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for _ in 0..n {
        // The same bytes come back; to herd they are a frame either way.
        let mut frame = [0; MESSAGE];
        frame[..2].copy_from_slice(&[0x82, MESSAGE as u8 - 2]);
        (&stream).write_all(&frame)?;
        reader.read_exact(&mut frame)?;
    }
    Ok(())
}

/// `None` at the end of the stream.
fn head(reader: &mut impl BufRead) -> anyhow::Result<Option<String>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(head))
}

/// A connection of the worker.
fn work(stream: UnixStream) -> anyhow::Result<()> {
    let mut reader = BufReader::new(&stream);
    while let Some(head) = head(&mut reader)? {
        if !head.to_ascii_lowercase().contains("upgrade: websocket") {
            (&stream)
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")?;
            continue;
        }
        (&stream).write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n",
        )?;
        let mut message = [0; MESSAGE];
        while reader.read_exact(&mut message).is_ok() {
            (&stream).write_all(&message)?;
        }
        break;
    }
    Ok(())
}

/// herd without its launcher, until stdin ends.
fn serve(worker: PathBuf) -> anyhow::Result<()> {
    let text = "network: {data_bind: \"127.0.0.1:0\"}\nworkers: {counted: {cmd: [\"none\", \"{{.Socket}}\"], max: 1}}\n";
    let config = match config::parse(text, "herd.yaml") {
        Ok(config) => Arc::new(config),
        Err(problems) => bail!("{problems}"),
    };
    let (events, inbox) = mpsc::channel(8);
    let crew = Outside {
        socket: Arc::new(worker),
        events,
    };
    let (mut driver, handle) = Driver::new(Arc::clone(&config), crew);
    let (shutdown, signals) = mpsc::channel(1);
    let server = Server::bind(&config)?;
    println!("{}", server.local_addr()?);
    let proxy = server.serve(handle, 1)?;
    let driving =
        std::thread::Builder::new()
            .name("driver".to_owned())
            .spawn(move || -> std::io::Result<()> {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(driver.run(inbox, signals));
                Ok(())
            })?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    shutdown.blocking_send(Shutdown::Now)?;
    driving
        .join()
        .map_err(|_| anyhow::anyhow!("the driver panicked"))??;
    drop(proxy);
    Ok(())
}

/// A worker that is there already, elsewhere.
#[derive(Debug)]
struct Outside {
    socket: Arc<PathBuf>,
    events: mpsc::Sender<Event>,
}

impl Outside {
    /// There is room: this crew says two things in its life.
    fn tell(&self, event: Event) {
        if let Err(e) = self.events.try_send(event) {
            eprintln!("the driver does not listen: {e}");
        }
    }
}

impl Crew for Outside {
    fn start(&mut self, worker: WorkerId, _: &Make, _: Option<&SessionId>) {
        let endpoint = Endpoint::Unix(Arc::clone(&self.socket));
        self.tell(Event::Ready { worker, endpoint });
    }

    fn memory(&mut self) -> Option<herd::core::Memory> {
        None
    }

    fn watch(&mut self, _: WorkerId, _: Option<herd::worker::Probes>) {}

    fn terminate(&mut self, worker: WorkerId) {
        self.kill(worker);
    }

    fn kill(&mut self, worker: WorkerId) {
        let death = Death {
            pids: Vec::new(),
            processes: 0,
            memory: 0,
            took: Duration::ZERO,
            survivors: 0,
            exit: Exit::Signal(9),
        };
        self.tell(Event::Gone { worker, death });
    }

    fn pid(&self, _: WorkerId) -> Option<i32> {
        None
    }

    fn logs(&self, _: WorkerId) -> Option<Arc<Logs>> {
        None
    }

    fn kill_switch(&self, _: WorkerId) -> Option<Arc<KillSwitch>> {
        None
    }

    fn plans(&self) -> herd::worker::Plans {
        herd::worker::Plans::new()
    }

    fn renew(&mut self, _: &[Arc<herd::worker::Plan>], _: &std::collections::BTreeSet<&str>) {}

    fn forget(&mut self, _: WorkerId) {}
}
