//! The validated configuration. Nothing downstream checks any of it again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use super::origin::OriginPattern;
use super::template::Template;
use crate::core::{Allowance, KindId};
pub use crate::core::{OnCrash, OnDisconnect, Rate, Reuse};

#[derive(Debug, Clone)]
pub struct Config {
    pub network: Network,
    pub session: Session,
    /// `None`: whoever can connect to the data plane may use it.
    pub auth: Option<Auth>,
    /// `control.socket`; `None`: `<runtime dir>/herd/control.sock` (see `docs/configuration.md`).
    pub control_socket: Option<PathBuf>,
    /// `control.tcp`: loopback.
    pub control_tcp: Option<SocketAddr>,
    /// `control.keys`; not empty with `control_tcp`, and empty without.
    pub control_keys: Vec<ControlKey>,
    /// `control.hosts`, in lower case: names under which browsers find the control API.
    pub control_hosts: Vec<String>,
    /// `state_dir`; `None`: `<runtime dir>/herd`. Holds per-worker directories and sockets.
    pub state_dir: Option<PathBuf>,
    pub history: History,
    /// `None`: no request leaves a line.
    pub access_log: Option<AccessLog>,
    /// `None`: no request is traced, and what clients say of traces passes.
    pub traces: Option<Traces>,
    pub lifetime: Lifetime,
    pub admission: Admission,
    /// How long bound sessions may go on after the first SIGTERM or SIGINT.
    pub drain_timeout: Duration,
    /// In the order of the file; never empty.
    pub kinds: Vec<Arc<Kind>>,
    /// Kinds that were in a former configuration of this herd and are not in this one. Sessions of theirs may live.
    pub former: Vec<FormerKind>,
}

/// A kind that there was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerKind {
    pub id: KindId,
    pub name: String,
}

impl Config {
    /// The variables of herd's own environment that hold keys and secrets. They are nobody else's, whatever
    /// `env_passthrough` says.
    pub fn secret_variables(&self) -> BTreeSet<&str> {
        let data = self
            .auth
            .iter()
            .flat_map(|auth| &auth.keys)
            .flat_map(|key| &key.sources);
        let keys = self.control_keys.iter().flat_map(|key| &key.sources).chain(data);
        let of_keys = keys.filter_map(|source| match source {
            KeySource::Env(name) => Some(name.as_str()),
            KeySource::Sha256(_) | KeySource::File(_) => None,
        });
        let secrets = self.auth.iter().flat_map(|auth| &auth.tokens.secrets);
        let of_tokens = secrets.filter_map(|secret| match secret {
            TokenSecret::Env(name) => Some(name.as_str()),
            TokenSecret::File(_) => None,
        });
        let headers = self.traces.iter().flat_map(|traces| &traces.headers);
        let of_traces = headers.filter_map(|header| match &header.source {
            HeaderSource::Env(name) => Some(name.as_str()),
            HeaderSource::Value(_) | HeaderSource::File(_) => None,
        });
        of_keys.chain(of_tokens).chain(of_traces).collect()
    }

    /// The kind for requests that name none.
    pub fn first_kind(&self) -> KindId {
        self.kinds.first().map(|kind| kind.id).unwrap_or_default()
    }

    /// These kinds, in the order of the file.
    pub fn in_order(&self, kinds: &[KindId]) -> Vec<KindId> {
        let known = self.kinds.iter().map(|kind| kind.id);
        known.filter(|kind| kinds.contains(kind)).collect()
    }

    /// Of one that there is, or was: only the driver knows whether a session of it may begin.
    pub fn kind_named(&self, name: &str) -> Option<KindId> {
        let present = self
            .kinds
            .iter()
            .find(|kind| kind.name == name)
            .map(|kind| kind.id);
        present.or_else(|| {
            self.former
                .iter()
                .find(|kind| kind.name == name)
                .map(|kind| kind.id)
        })
    }

    /// The name of one that there is, or was.
    pub fn kind_name(&self, id: KindId) -> &str {
        let present = self
            .kinds
            .iter()
            .find(|kind| kind.id == id)
            .map(|kind| &kind.name);
        let former = || {
            self.former
                .iter()
                .find(|kind| kind.id == id)
                .map(|kind| &kind.name)
        };
        present.or_else(former).map_or("", String::as_str)
    }
}

/// A line for each request of the data plane.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    pub to: LogTarget,
    /// Of requests that are no errors.
    pub sample: Share,
    pub query: Query,
    pub session: SessionShown,
}

/// Spans of requests, sent to a receiver by OTLP over HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct Traces {
    /// `http` or `https`, with a host and a path.
    pub endpoint: Uri,
    /// Of requests that come without a trace.
    pub sample: Share,
    /// Never empty.
    pub service_name: String,
    /// Each name once.
    pub headers: Vec<TracesHeader>,
}

/// A header for the receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracesHeader {
    pub name: HeaderName,
    /// The name as the file has it.
    pub spelled: String,
    pub source: HeaderSource,
}

/// Where the value of a header for the receiver is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderSource {
    Value(HeaderValue),
    Env(String),
    File(PathBuf),
}

/// Where a log's lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    Stdout,
    File(PathBuf),
}

/// Whether a request's query is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    LeftOut,
    /// Without herd's own parameters.
    Kept,
}

/// How a session's id is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionShown {
    Plain,
    Hash,
    Omit,
}

/// A part of all, from none to everything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(f64);

impl Share {
    pub const ALL: Self = Self(1.0);

    /// Of 0 to 1.
    pub fn new(part: f64) -> Option<Self> {
        (0.0..=1.0).contains(&part).then_some(Self(part))
    }

    /// Whether one belongs to it, whose lot is evenly spread over 0 to 1, without 1.
    pub fn takes(self, lot: f64) -> bool {
        lot < self.0
    }
}

/// Who may use the data plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Never empty; each name once.
    pub keys: Vec<DataKey>,
    pub tokens: Tokens,
}

/// A principal: who sends this key, and what of the data plane that opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataKey {
    pub name: String,
    /// Where its keys are; at least one.
    pub sources: Vec<KeySource>,
    /// The kinds it may use, never none; `None`: all.
    pub workers: Option<Vec<KindId>>,
    pub allowance: Allowance,
    /// Of requests.
    pub rate: Option<Rate>,
}

/// Signed tokens, each for one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Each is accepted, the first signs. Empty: a random one, which lives as long as herd.
    pub secrets: Vec<TokenSecret>,
    /// Cookie that may carry one.
    pub cookie: String,
    /// Query parameter that may.
    pub query: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSecret {
    Env(String),
    File(PathBuf),
}

/// What new workers are admitted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    pub memory: MemoryAdmission,
    /// Bytes of the host's memory that are for no worker.
    pub reserve: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryAdmission {
    /// The `memory` of a new worker has to fit into what the host has left.
    On,
    Off,
}

/// What is kept on disk of sessions that have ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// `history.dir`; `None`: see `docs/configuration.md`.
    pub dir: Option<PathBuf>,
    /// Bytes; `None`: none is kept.
    pub size: Option<u64>,
}

/// Who may use the control API over TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlKey {
    pub name: String,
    /// Where its keys are; at least one.
    pub sources: Vec<KeySource>,
    pub may: May,
}

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    Sha256([u8; 32]),
    Env(String),
    File(PathBuf),
}

/// How much of the control API somebody may use. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum May {
    /// Metrics, health and readiness.
    Metrics,
    /// Everything that changes nothing.
    Read,
    Control,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub data_bind: SocketAddr,
    /// A request head must be complete within this time of its first byte (and of the accept).
    pub header_timeout: Duration,
    /// An idle keep-alive connection is closed after this.
    pub idle_timeout: Duration,
    /// Connections beyond this are not accepted until one closes.
    pub max_connections: usize,
    /// Largest request head, bytes; and most header fields.
    pub max_header_size: usize,
    pub max_headers: usize,
    /// Peers whose `X-Forwarded-*` is appended to instead of overwritten.
    pub trusted_proxies: Vec<IpNet>,
    /// A peer that answers nothing for this long is dead (TCP keep-alive, TCP_INFO, h2 PING).
    pub dead_peer_timeout: Duration,
    /// `Some`: the data port speaks TLS.
    pub tls: Option<Tls>,
    pub proxy_protocol: ProxyProtocol,
    /// Whose pages may open WebSockets. `None`: see `proxy::origin`.
    pub websocket_origins: Option<Vec<OriginPattern>>,
}

/// Files of PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// herd's certificate, then those that vouch for it.
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Whether connections begin with the PROXY protocol's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    Off,
    /// All have to, and come from `trusted_proxies`.
    Required,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// `x-session-id`, then the aliases.
    pub headers: Vec<HeaderName>,
    /// Query parameter that may carry the id; removed before forwarding.
    pub query: Option<String>,
    /// Cookie that may carry the id.
    pub cookie: Option<String>,
    /// 410, or 404 for MCP.
    pub lost_status: http::StatusCode,
    /// How long a crashed session's id answers `lost_status`.
    pub lost_for: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Refuse to start where the kernel cannot guarantee that nothing survives herd.
    Strict,
    /// Where it cannot, use the weaker guard and say so loudly.
    BestEffort,
}

/// One entry under `workers:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    pub name: String,
    /// Its place among the kinds, until herd has known others before: then the one that its name has had.
    pub id: KindId,
    pub cmd: Vec<Template>,
    pub env: BTreeMap<String, Template>,
    /// Patterns (`*` and `?`) of variable names copied from herd's own environment.
    pub env_passthrough: Vec<String>,
    pub cwd: Option<Template>,
    /// Derived from the templates: a kind that names `{{.Socket}}` is reached over it.
    pub upstream: Upstream,
    /// Derived: names `{{.SessionID}}` or `{{.Principal}}`, so each worker is started for one known session.
    pub per_session: bool,
    pub min: usize,
    pub max: usize,
    /// Most that start at a time, at least 1; `None`: all of `max`.
    pub max_starting: Option<usize>,
    /// `None`: never ends for idleness (`ttl: never`).
    pub ttl: Option<Duration>,
    pub max_lifetime: Option<Duration>,
    pub reuse: Reuse,
    /// Ready when a GET of this path answers 200–399; `None`: when it accepts a connection.
    pub health_path: Option<String>,
    /// `None`: a ready worker is taken to be alive as long as its program runs.
    pub liveness: Option<Liveness>,
    pub start_timeout: Duration,
    pub stop_timeout: Duration,
    pub disconnect_grace: Duration,
    pub on_disconnect: OnDisconnect,
    pub bind: Bind,
    pub on_crash: OnCrash,
    pub queue: Queue,
    pub host_header: HostHeader,
    pub protocol: Protocol,
    pub routes: Vec<Route>,
    pub sandbox: SandboxChoice,
    /// Bytes of a worker's output that are kept.
    pub log_buffer: usize,
}

/// How herd asks whether a worker is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Liveness {
    /// A GET of it answers 200–399.
    pub path: String,
    pub interval: Duration,
    pub timeout: Duration,
    /// So many failures in a row are the worker's end; at least 1.
    pub failures: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxChoice {
    /// The kind says nothing: bare, with a notice.
    Unsaid,
    Off,
    On(Arc<Sandbox>),
}

impl SandboxChoice {
    pub fn on(&self) -> Option<&Arc<Sandbox>> {
        match self {
            Self::On(sandbox) => Some(sandbox),
            Self::Unsaid | Self::Off => None,
        }
    }
}

/// The isolation around each worker of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub root: Root,
    pub profile: Profile,
    pub network: SandboxNetwork,
    pub limits: Limits,
    /// Bytes of the writable layer, which is memory.
    pub tmpfs: u64,
    pub mounts: Vec<Mount>,
    /// User and group id inside; `None`: the bundle's, else 1000.
    pub user: Option<u32>,
    pub require: Require,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// The host's system directories, read-only.
    Host,
    /// An OCI bundle; relative to the directory herd was started in.
    Bundle(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    Strict,
    Browser,
    /// In Docker's JSON format.
    File(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxNetwork {
    /// Its own, with only loopback.
    None,
    Host,
}

/// Where a kind says nothing.
pub(super) const DEFAULT_PIDS: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes, swap excluded.
    pub memory: Option<u64>,
    /// Thousandths of a core.
    pub cpus: Option<u32>,
    pub pids: u64,
    /// `pids` is the file's, not the default.
    pub pids_asked: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Relative to the directory herd was started in.
    pub source: PathBuf,
    /// Absolute, without `..`.
    pub target: PathBuf,
    pub writable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Require {
    /// Refuse to start where this host cannot enforce what is asked for.
    Strict,
    /// Start without it, and say so.
    BestEffort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upstream {
    Port,
    Socket,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bind {
    /// Requests, streams and holds keep the session.
    Session,
    /// So does every client connection that carried one of its requests, until it closes.
    Connection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    pub max: usize,
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostHeader {
    /// The client's `Host` is passed on.
    Client,
    /// The worker sees its own address as `Host`; `webSocketDebuggerUrl` in JSON answers is rewritten.
    Worker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// HTTP/2 with prior knowledge, for gRPC.
    H2,
}

/// A request that matches every given part is for this kind, unless `X-Herd-Worker` says otherwise.
/// At least one part is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Without port, lower case.
    pub host: Option<String>,
    /// Matches whole segments: `/a` matches `/a` and `/a/b`, not `/ab`.
    pub path_prefix: Option<String>,
}
