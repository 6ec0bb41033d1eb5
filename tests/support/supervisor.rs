//! A herd reduced to its launcher and its workers, for tests: one JSON command a line on stdin, one JSON event a
//! line on stdout. The end of stdin ends it.
//!
//! It is a program of its own because the launcher has to be forked before any thread exists, which a test
//! function can never guarantee.

#![expect(clippy::expect_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use herd::config::{
    Bind, HostHeader, Kind, Lifetime, OnCrash, OnDisconnect, Protocol, Queue, Reuse, Template, Upstream,
    Variable,
};
use herd::core::WorkerId;
use herd::launcher::{self, Client, Options};
use herd::worker::{Connection, Endpoint, Event, Make, StateDir, Workers};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

#[derive(Deserialize)]
struct Settings {
    state_dir: PathBuf,
    ports: (u16, u16),
    /// Present (`[]`): `lifetime: strict`.
    strict: Option<[u8; 0]>,
}

#[derive(Deserialize)]
struct Spec {
    cmd: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    env_passthrough: Vec<String>,
    cwd: Option<String>,
    health_path: Option<String>,
    start_timeout_ms: Option<u64>,
    log_buffer: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Command {
    Start { worker: u64, spec: Spec },
    Terminate { worker: u64 },
    Kill { worker: u64 },
    Logs { worker: u64 },
    Connect { worker: u64 },
    Forget { worker: u64 },
}

fn main() {
    let settings: Settings =
        serde_json::from_str(&std::env::args().nth(1).expect("settings")).expect("settings are JSON");
    let lifetime = if settings.strict.is_some() {
        Lifetime::Strict
    } else {
        Lifetime::BestEffort
    };
    let forked = match launcher::fork(Options {
        lifetime,
        sandboxes: launcher::Sandboxes::default(),
    }) {
        Ok(forked) => forked,
        Err(e) => {
            say(&json!({"error": e.to_string()}));
            std::process::exit(2);
        }
    };
    let launcher_pid = forked.pidfd.pid().expect("fdinfo");
    say(&json!({"launcher": launcher_pid, "guard": format!("{:?}", forked.guard)}));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    tokio::task::LocalSet::new().block_on(&runtime, run(settings, forked));
    runtime.shutdown_background();
}

async fn run(settings: Settings, forked: launcher::Forked) {
    let state = match StateDir::open(&settings.state_dir) {
        Ok(state) => state,
        Err(e) => return say(&json!({"error": e.to_string()})),
    };
    let client = Client::new(forked).expect("client");
    let (tell, mut events) = mpsc::channel(64);
    let mut workers = Workers::new(
        client,
        state,
        settings.ports.0..=settings.ports.1,
        &Default::default(),
        tell,
    );
    let (send, mut commands) = mpsc::channel::<Command>(64);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let command = serde_json::from_str(&line).expect("a command");
            if send.blocking_send(command).is_err() {
                break;
            }
        }
    });
    let mut endpoints: BTreeMap<u64, Endpoint> = BTreeMap::new();
    loop {
        tokio::select! {
            lost = workers.launcher_lost() => return say(&json!({"lost": lost.to_string()})),
            Some(event) = events.recv() => tell_event(event, &workers, &mut endpoints),
            command = commands.recv() => match command {
                None => return,
                Some(Command::Start { worker, spec }) => {
                    let make = Make {
                        kind: Arc::new(kind(spec)),
                        plan: None,
                    };
                    workers.start(WorkerId(worker), &make, None);
                }
                Some(Command::Terminate { worker }) => workers.terminate(WorkerId(worker)),
                Some(Command::Kill { worker }) => workers.kill(WorkerId(worker)),
                Some(Command::Forget { worker }) => {
                    endpoints.remove(&worker);
                    workers.forget(WorkerId(worker));
                }
                Some(Command::Logs { worker }) => {
                    let lines: Vec<String> = workers.logs(WorkerId(worker)).map_or(Vec::new(), |logs| {
                        logs.tail(usize::MAX).iter().map(|l| String::from_utf8_lossy(&l.text).into_owned()).collect()
                    });
                    say(&json!({"logs": worker, "lines": lines}));
                }
                Some(Command::Connect { worker }) => {
                    let result = match endpoints.get(&worker) {
                        Some(endpoint) => endpoint.connect().await.map_err(|e| e.to_string()),
                        None => Err("no endpoint".to_owned()),
                    };
                    let text = match result {
                        Ok(Connection::Tcp(_)) => "tcp".to_owned(),
                        Ok(Connection::Unix(_)) => "unix".to_owned(),
                        Err(e) => e,
                    };
                    say(&json!({"connect": worker, "result": text}));
                }
            },
        }
    }
}

fn tell_event(event: Event, workers: &Workers, endpoints: &mut BTreeMap<u64, Endpoint>) {
    say(&match event {
        Event::Ready { worker, endpoint } => {
            let pid = workers.pid(worker);
            let shown = endpoint.to_string();
            endpoints.insert(worker.0, endpoint);
            json!({"ready": worker.0, "endpoint": shown, "pid": pid})
        }
        Event::StartFailed { worker, failure } => {
            json!({"failed": worker.0, "why": failure.to_string(), "kind": format!("{:?}", failure.kind),
                   "tail": failure.log_tail})
        }
        Event::ProbeFailed { worker, what, .. } => json!({"unwell": worker.0, "why": what}),
        Event::Gone { worker, death } => {
            json!({"gone": worker.0, "exit": death.exit.to_string(), "pids": death.pids,
                   "processes": death.processes, "memory": death.memory,
                   "took_us": death.took.as_micros() as u64})
        }
    });
}

fn kind(spec: Spec) -> Kind {
    let template = |text: &String| Template::parse(text).expect("a template");
    let cmd: Vec<Template> = spec.cmd.iter().map(template).collect();
    let env: BTreeMap<String, Template> = spec.env.iter().map(|(k, v)| (k.clone(), template(v))).collect();
    let socket = cmd.iter().chain(env.values()).any(|t| t.names(Variable::Socket));
    Kind {
        id: herd::core::KindId(0),
        name: "test".to_owned(),
        cmd,
        env,
        env_passthrough: spec.env_passthrough,
        cwd: spec.cwd.as_ref().map(template),
        upstream: if socket { Upstream::Socket } else { Upstream::Port },
        per_session: false,
        min: 0,
        max: 1,
        ttl: None,
        max_lifetime: None,
        reuse: Reuse::Never,
        health_path: spec.health_path,
        max_starting: None,
        liveness: None,
        start_timeout: Duration::from_millis(spec.start_timeout_ms.unwrap_or(30_000)),
        stop_timeout: Duration::from_secs(5),
        disconnect_grace: Duration::ZERO,
        on_disconnect: OnDisconnect::Kill,
        bind: Bind::Session,
        on_crash: OnCrash::Lost,
        queue: Queue {
            max: 1,
            timeout: Duration::from_secs(1),
        },
        host_header: HostHeader::Client,
        protocol: Protocol::Http1,
        routes: Vec::new(),
        sandbox: herd::config::SandboxChoice::Off,
        log_buffer: spec.log_buffer.unwrap_or(1 << 20),
    }
}

fn say(event: &serde_json::Value) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{event}")
        .and_then(|()| out.flush())
        .expect("stdout");
}
