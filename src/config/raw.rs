//! herd.yaml as it is written: every key optional, every value already of its type.
//!
//! The comments of the keys are the descriptions in `docs/herd.schema.json`. What needs more than one
//! key to judge is judged in [`super::validate`].

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;

use super::text::{
    Address, Cidr, CookieName, Digest, Directory, EnvPattern, Header, HealthPath, Host, InOrder, LostStatus,
    PathPrefix, QueryName, SocketPath, TemplateText,
};
use super::units::{Count, PositiveTime, Size, Time, TimeOrNever};
use crate::core::NAME_PATTERN;

/// The configuration of herd: which workers it starts and how sessions live and die.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values, starting with workers:")]
#[schemars(title = "herd.yaml", extend("required" = ["workers"]))]
pub(super) struct File {
    /// The data plane: where it listens and what a connection may cost.
    pub(super) network: Option<Network>,
    /// How requests name their session.
    pub(super) session: Option<Session>,
    /// Who may use the data plane. Default: everyone who can connect to it.
    pub(super) auth: Option<super::auth::Auth>,
    /// The control plane behind `herd ps`, `stop` and `logs`.
    pub(super) control: Option<Control>,
    /// Directory for workers' own directories and sockets. Default: `/run/herd` for root, else
    /// `$XDG_RUNTIME_DIR/herd`, else `/tmp/herd-<uid>`.
    pub(super) state_dir: Option<Directory>,
    /// What is kept on disk of sessions that have ended.
    pub(super) history: Option<History>,
    /// A line of JSON for each request of the data plane. Default: none.
    pub(super) access_log: Option<super::access_log::AccessLog>,
    /// Spans of the data plane's requests, sent to an OpenTelemetry receiver. Default: none.
    pub(super) traces: Option<super::traces::Traces>,
    /// `strict` refuses to start where the kernel cannot guarantee that nothing survives herd;
    /// `best-effort` (default) warns and uses the weaker guard.
    pub(super) lifetime: Option<Lifetime>,
    /// Whether new workers have to fit into what this host has left.
    pub(super) admission: Option<Admission>,
    /// How long bound sessions may go on after the first SIGTERM or SIGINT. Default: 30s.
    pub(super) drain_timeout: Option<Time>,
    /// Settings for every kind of worker that does not set them itself: any worker key except `cmd`.
    #[schemars(schema_with = "defaults_schema")]
    pub(super) defaults: Option<Kind>,
    /// The kinds of workers by name. The first is used where neither a header nor a route names one.
    #[schemars(schema_with = "workers_schema")]
    pub(super) workers: Option<InOrder<Kind>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "keys and values, e.g. {data_bind: \"127.0.0.1:8080\"}"
)]
pub(super) struct Network {
    /// Address and port of the data plane. Default: 127.0.0.1:8080. Port 0 takes a free one.
    pub(super) data_bind: Option<Address>,
    /// A request's head must be complete within this time. Default: 10s.
    pub(super) header_timeout: Option<PositiveTime>,
    /// An idle keep-alive connection is closed after this. Default: 75s.
    pub(super) idle_timeout: Option<PositiveTime>,
    /// Connections beyond this wait until one closes. Default: 10000.
    pub(super) max_connections: Option<Count>,
    /// Largest request head in bytes, 8K to 1M. Default: 64K.
    pub(super) max_header_size: Option<Size>,
    /// Most header fields of a request, 1 to 1000. Default: 100.
    pub(super) max_headers: Option<Count>,
    /// Peers whose `X-Forwarded-*` headers are kept and appended to; those of others are overwritten.
    /// Default: none.
    pub(super) trusted_proxies: Option<Vec<Cidr>>,
    /// A peer that acknowledges nothing for this long counts as gone. Default: 30s.
    pub(super) dead_peer_timeout: Option<PositiveTime>,
    /// Origins of the web pages that may open WebSockets, e.g. `https://app.example.com`, `https://*.example.com`,
    /// `http://localhost:*`, or `"*"` for all. Default: those of the same host and port, and others only with a header
    /// that no page can send.
    pub(super) websocket_origins: Option<Vec<super::origin::OriginText>>,
    /// The data port speaks TLS with this certificate. Default: no.
    pub(super) tls: Option<Tls>,
    /// `required`: every connection begins with the head of the PROXY protocol, version 2, and comes from one of
    /// `trusted_proxies`; the client is whom it names. Default: off.
    pub(super) proxy_protocol: Option<ProxyProtocol>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "keys and values, e.g. {cert: /etc/herd/tls.crt, key: /etc/herd/tls.key}"
)]
pub(super) struct Tls {
    /// File with herd's certificate in PEM, then those that vouch for it. Required.
    pub(super) cert: Option<String>,
    /// File with its private key in PEM, not readable by others. Required.
    pub(super) key: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", expecting = "off or required")]
pub(super) enum ProxyProtocol {
    Off,
    Required,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "keys and values, e.g. {header: X-Session-ID}"
)]
pub(super) struct Session {
    /// Header that carries the session id. Default: X-Session-ID.
    pub(super) header: Option<Header>,
    /// Further headers that may carry it, e.g. `Mcp-Session-Id`. Default: none.
    pub(super) aliases: Option<Vec<Header>>,
    /// Query parameter that may carry it; removed before the request reaches the worker. Default: none.
    pub(super) query: Option<QueryName>,
    /// Cookie that may carry it. Default: none.
    pub(super) cookie: Option<CookieName>,
    /// Status for the id of a crashed session: 410 (default), or 404 for MCP clients.
    pub(super) lost_status: Option<LostStatus>,
    /// How long the id of a crashed session is answered so. Default: 10m.
    pub(super) lost_for: Option<Time>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "keys and values, e.g. {socket: /run/herd/control.sock}"
)]
pub(super) struct Control {
    /// UNIX socket of the control plane. Default: `/run/herd/control.sock` for root, else
    /// `$XDG_RUNTIME_DIR/herd/control.sock`, else `/tmp/herd-<uid>/control.sock`.
    pub(super) socket: Option<SocketPath>,
    /// Also serve it on this address of loopback, to who sends one of `keys`. Default: no.
    pub(super) tcp: Option<Address>,
    /// Who may use `tcp`, by name: the name stands in events.
    #[schemars(schema_with = "keys_schema")]
    pub(super) keys: Option<InOrder<ControlKey>>,
    /// Names under which a proxy serves it to browsers, beside addresses and `localhost`. Default: none.
    pub(super) hosts: Option<Vec<Host>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "keys and values, e.g. {dir: /var/lib/herd, size: 8M}"
)]
pub(super) struct History {
    /// Directory of its files. Default: `state_dir`, if that is set; else what systemd gives as `StateDirectory=`, else
    /// `/var/lib/herd` for root, and `$XDG_STATE_HOME/herd` or `~/.local/state/herd` for others.
    pub(super) dir: Option<Directory>,
    /// Most that they may take together; 0 keeps none. Default: 8M.
    pub(super) size: Option<Size>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "keys and values, e.g. {memory: on, reserve: 256M}"
)]
pub(super) struct Admission {
    /// `on` (default): a worker whose sandbox has a limit of `memory` starts only when this host has that much left, less
    /// what other workers were promised. `off`: nobody asks.
    pub(super) memory: Option<MemoryAdmission>,
    /// Memory of the host that is for no worker. Default: 256M.
    pub(super) reserve: Option<Size>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "keys and values, e.g. {env: HERD_KEY, may: metrics}"
)]
pub(super) struct ControlKey {
    /// The key's SHA-256, as `herd key` prints it.
    pub(super) sha256: Option<Digest>,
    /// Or a variable of herd's own environment that holds the key.
    pub(super) env: Option<String>,
    /// Or a file that holds the key.
    pub(super) file: Option<String>,
    /// Further keys that count as this one, each sha256, env or file: the old one while a new one takes its place.
    pub(super) also: Option<Vec<OtherKey>>,
    /// `metrics`: metrics, health and readiness; `read` (default): everything that changes nothing; `control`: all.
    pub(super) may: Option<May>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "sha256, env or file, e.g. {env: OLD_KEY}")]
pub(super) struct OtherKey {
    /// The key's SHA-256, as `herd key` prints it.
    pub(super) sha256: Option<Digest>,
    /// Or a variable of herd's own environment that holds the key.
    pub(super) env: Option<String>,
    /// Or a file that holds the key.
    pub(super) file: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", expecting = "metrics, read or control")]
pub(super) enum May {
    Metrics,
    Read,
    Control,
}

#[derive(Debug, Default, Clone, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "keys and values, e.g. {cmd: [\"my-server\", \"--port\", \"{{.Port}}\"]}"
)]
pub(super) struct Kind {
    /// The program and its arguments; no shell is involved. Templates are replaced. Required.
    pub(super) cmd: Option<Vec<TemplateText>>,
    /// Variables given to the worker. Templates are replaced in the values. Default: none.
    pub(super) env: Option<BTreeMap<String, TemplateText>>,
    /// Variables copied from herd's own environment; `*` and `?` match. Default: none.
    pub(super) env_passthrough: Option<Vec<EnvPattern>>,
    /// Working directory. Templates are replaced. Default: where herd was started.
    pub(super) cwd: Option<TemplateText>,
    /// Workers kept warm: started and waiting for a session. Default: 0.
    pub(super) min: Option<Count>,
    /// Most workers at a time, starting, warm, bound and dying ones together. Default: 10.
    pub(super) max: Option<Count>,
    /// Most that start at a time; further sessions wait in the queue. Default: no limit but `max`.
    pub(super) max_starting: Option<Count>,
    /// A session that nothing holds ends after this. `never` turns it off. Default: 15m.
    pub(super) ttl: Option<TimeOrNever>,
    /// A session ends after this, whatever it does. Default: never.
    pub(super) max_lifetime: Option<TimeOrNever>,
    /// Whether a worker may serve another session after its first. Default: false.
    pub(super) reuse: Option<bool>,
    /// A worker is ready when a GET of this path answers 200 to 399. Default: when it accepts
    /// connections.
    pub(super) health_path: Option<HealthPath>,
    /// Whether a ready worker is still alive: the path to ask for, or settings; asked only while the session is
    /// silent. Default: off.
    pub(super) liveness: Option<super::liveness::Choice>,
    /// A worker that is not ready within this is killed. Default: 30s.
    pub(super) start_timeout: Option<PositiveTime>,
    /// Time between SIGTERM and SIGKILL at a polite end. Default: 5s.
    pub(super) stop_timeout: Option<Time>,
    /// Time a session may be without its client before it is killed. Default: 0s.
    pub(super) disconnect_grace: Option<Time>,
    /// What a disconnect does: `kill` (default) ends the session, `ttl` leaves it to its ttl.
    pub(super) on_disconnect: Option<OnDisconnect>,
    /// What holds a session: `session` (default) its requests and streams, `connection` also every
    /// client connection that carried one of its requests.
    pub(super) bind: Option<Bind>,
    /// What follows a crash: `lost` (default) tells the client, `respawn` starts anew without a word.
    pub(super) on_crash: Option<OnCrash>,
    /// What happens to new sessions while `max` is reached.
    pub(super) queue: Option<Queue>,
    /// The Host header the worker sees: the `client`'s (default), or the `worker`'s own address.
    pub(super) host_header: Option<HostHeader>,
    /// How the worker is spoken to: `http1` (default), or `h2` with prior knowledge.
    pub(super) protocol: Option<Protocol>,
    /// Requests that are for this kind unless `X-Herd-Worker` says otherwise. Default: none.
    pub(super) routes: Option<Vec<Route>>,
    /// The isolation around each worker: `off`, `host` (a sandbox with the host's system directories),
    /// or settings. Default: off, with a notice at start.
    pub(super) sandbox: Option<super::sandbox::Choice>,
    /// How much of a worker's latest output is kept, 4K to 1G. Default: 256K.
    pub(super) log_buffer: Option<Size>,
}

#[derive(Debug, Default, Clone, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "keys and values, e.g. {max: 100, timeout: 30s}"
)]
pub(super) struct Queue {
    /// Most sessions that wait; 0 refuses at once. Default: 100.
    pub(super) max: Option<Count>,
    /// Longest wait. Default: 30s.
    pub(super) timeout: Option<PositiveTime>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "host and path_prefix, e.g. {path_prefix: /browser}"
)]
#[schemars(extend("minProperties" = 1))]
pub(super) struct Route {
    /// Host of the request, without port. Default: any.
    pub(super) host: Option<Host>,
    /// Whole leading segments of the path: `/a` matches `/a` and `/a/b`, not `/ab`. Default: any.
    pub(super) path_prefix: Option<PathPrefix>,
}

/// Enums of words, each as it is written.
macro_rules! words {
    ($($name:ident { $($variant:ident = $word:literal),* })*) => { $(
        #[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
        #[schemars(inline)]
        pub(super) enum $name {
            $(#[serde(rename = $word)] $variant,)*
        }
    )* };
}

pub(super) use words;

words! {
    Lifetime { Strict = "strict", BestEffort = "best-effort" }
    MemoryAdmission { On = "on", Off = "off" }
    OnDisconnect { Kill = "kill", Ttl = "ttl" }
    Bind { Session = "session", Connection = "connection" }
    OnCrash { Lost = "lost", Respawn = "respawn" }
    HostHeader { Client = "client", Worker = "worker" }
    Protocol { Http1 = "http1", H2 = "h2" }
}

fn defaults_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<Kind>();
    schema.insert("not".to_owned(), serde_json::json!({ "required": ["cmd"] }));
    schema
}

fn keys_schema(generator: &mut SchemaGenerator) -> Schema {
    named_keys(generator.subschema_for::<ControlKey>())
}

/// A map from names to such keys.
pub(super) fn named_keys(key: Schema) -> Schema {
    schemars::json_schema!({
        "type": "object",
        "propertyNames": { "pattern": NAME_PATTERN },
        "additionalProperties": key,
    })
}

fn workers_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut kind = generator.subschema_for::<Kind>();
    kind.insert("required".to_owned(), serde_json::json!(["cmd"]));
    schemars::json_schema!({
        "type": "object",
        "minProperties": 1,
        "propertyNames": { "pattern": NAME_PATTERN },
        "additionalProperties": kind,
    })
}
