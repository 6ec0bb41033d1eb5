//! Raw → validated: defaults filled in, and everything judged that takes more than one value.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::model::{
    Admission, Config, ControlKey, History, KeySource, Kind, Lifetime, May, MemoryAdmission, Network,
    ProxyProtocol, Session, Tls,
};
use super::problem::Collector;
use super::raw::OtherKey;
use super::template::{Template, Variable};
use super::text::{Address, InOrder, is_env_name};
use super::yaml::{Node, Step};
use super::{model, raw};
use crate::core::{KindId, is_name};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// `Some` exactly if nothing is wrong, here or in what `problems` already holds.
pub(super) fn validate(file: raw::File, tree: &Node, problems: &mut Collector) -> Option<Config> {
    let mut judge = Judge { tree, problems };
    let network = judge.network(file.network.unwrap_or_default());
    let session = judge.session(file.session.unwrap_or_default());
    let asked_auth = file.auth;
    let control = file.control.unwrap_or_default();
    let control_tcp = judge.control_tcp(&control);
    let control_keys = judge.control_keys(control.keys);
    let history = judge.history(file.history.unwrap_or_default());
    let access_log = file.access_log.and_then(|log| judge.access_log(log));
    let traces = file.traces.and_then(|traces| judge.traces(traces));
    let defaults = file.defaults.unwrap_or_default();
    if defaults.cmd.is_some() {
        judge.at_key(
            &["defaults", "cmd"],
            "cannot have a default; write cmd in each kind under workers",
        );
    }
    judge.env_names(&["defaults", "env"], &defaults);
    let kinds = judge.kinds(file.workers, &defaults);
    judge.routes(&kinds);
    let auth = asked_auth.and_then(|auth| judge.auth(auth, &session, &kinds));
    judge.principals(auth.as_ref(), &kinds);
    if !problems.is_empty() {
        return None;
    }
    Some(Config {
        network,
        session,
        auth,
        control_socket: control.socket.map(|path| path.0),
        control_tcp,
        control_keys,
        control_hosts: control
            .hosts
            .map_or_else(Vec::new, |hosts| hosts.into_iter().map(|host| host.0).collect()),
        state_dir: file.state_dir.map(|path| path.0),
        history,
        access_log,
        traces,
        lifetime: match file.lifetime {
            Some(raw::Lifetime::Strict) => Lifetime::Strict,
            Some(raw::Lifetime::BestEffort) | None => Lifetime::BestEffort,
        },
        admission: admission(file.admission.unwrap_or_default()),
        drain_timeout: file.drain_timeout.map_or(30 * SECOND, |time| time.0),
        kinds: kinds
            .into_iter()
            .enumerate()
            .map(|(index, kind)| {
                let id = KindId(index);
                Arc::new(Kind { id, ..kind })
            })
            .collect(),
        former: Vec::new(),
    })
}

/// Knows where things stand, and collects what is wrong with them.
pub(super) struct Judge<'a> {
    pub(super) tree: &'a Node,
    pub(super) problems: &'a mut Collector,
}

pub(super) fn steps(path: &[&str]) -> Vec<Step> {
    path.iter().map(|key| Step::Key((*key).to_owned())).collect()
}

/// Where the key of this number stands, of those that the name at `path` has.
pub(super) fn key_steps(path: &[&str], number: usize) -> Vec<Step> {
    let also = number
        .checked_sub(1)
        .map(|index| [Step::from("also"), Step::Index(index)]);
    steps(path)
        .into_iter()
        .chain(also.into_iter().flatten())
        .collect()
}

impl Judge<'_> {
    pub(super) fn at_step(&mut self, path: &[Step], message: &str) {
        let found = self.tree.locate(path);
        self.problems.add(found.value_at, found.name, message);
    }

    pub(super) fn at_key(&mut self, path: &[&str], message: impl Into<String>) {
        let found = self.tree.locate(&steps(path));
        self.problems.add(found.key_at, found.name, message);
    }

    pub(super) fn at_value(&mut self, path: &[&str], message: impl Into<String>) {
        let found = self.tree.locate(&steps(path));
        self.problems.add(found.value_at, found.name, message);
    }

    /// At the kind's own key, or where `defaults` sets it, or at the kind.
    pub(super) fn at_setting(&mut self, kind: &str, setting: &[&str], message: impl Into<String>) {
        let own = [&["workers", kind], setting].concat();
        let default = [&["defaults"], setting].concat();
        let complete = |path: &[&str]| self.tree.locate(&steps(path)).complete;
        let path = if !complete(&own) && complete(&default) {
            default
        } else {
            own
        };
        self.at_value(&path, message);
    }

    /// Something at or under this setting of the kind was already reported and left out.
    pub(super) fn is_broken(&self, kind: &str, setting: &str) -> bool {
        self.problems.mentions(&format!("workers.{kind}.{setting}"))
            || self.problems.mentions(&format!("defaults.{setting}"))
    }

    fn bounded(&mut self, path: &[&str], value: usize, min: usize, max: usize, hint: &str) -> usize {
        if !(min..=max).contains(&value) {
            self.at_value(path, format!("is out of range; write {hint}"));
        }
        value
    }

    fn control_tcp(&mut self, control: &raw::Control) -> Option<SocketAddr> {
        let has_keys = control.keys.as_ref().is_some_and(|keys| !keys.0.is_empty());
        let Some(Address(tcp)) = control.tcp else {
            if has_keys {
                self.at_key(
                    &["control", "keys"],
                    "are of no use without control.tcp; the socket needs none",
                );
            }
            return None;
        };
        if !tcp.ip().is_loopback() {
            self.at_value(
                &["control", "tcp"],
                "is not loopback, and keys would cross the network in the clear; write e.g. 127.0.0.1:9190, and put \
                 something with TLS before it",
            );
        }
        if !has_keys {
            self.at_key(
                &["control", "tcp"],
                "needs control.keys: every user of this host can connect to it; `herd key` makes one",
            );
        }
        Some(tcp)
    }

    fn history(&mut self, raw: raw::History) -> History {
        let size = raw.size.map_or(8 << 20, |size| size.0);
        if size != 0 && !((64 << 10)..=(1 << 30)).contains(&size) {
            self.at_value(
                &["history", "size"],
                "is out of range; write 64K to 1G, e.g. 8M, or 0 to keep none",
            );
        }
        History {
            dir: raw.dir.map(|path| path.0),
            size: (size > 0).then_some(size as u64),
        }
    }

    fn control_keys(&mut self, keys: Option<InOrder<raw::ControlKey>>) -> Vec<ControlKey> {
        let mut known = Vec::new();
        for (name, key) in keys.map_or_else(Vec::new, |keys| keys.0) {
            let path = ["control", "keys", &name];
            if !is_name(&name) {
                self.at_key(
                    &path,
                    "is not a name; write 1 to 63 of a-z 0-9 _ -, a letter or digit first",
                );
            }
            let first = OtherKey {
                sha256: key.sha256,
                env: key.env,
                file: key.file,
            };
            let Some(sources) = self.key_sources(&path, first, key.also) else {
                continue;
            };
            let may = match key.may {
                Some(raw::May::Metrics) => May::Metrics,
                Some(raw::May::Read) | None => May::Read,
                Some(raw::May::Control) => May::Control,
            };
            known.push(ControlKey { name, sources, may });
        }
        known
    }

    /// Where the keys of the name at this path are: the `first`, and what stands under `also`. `None`: something is wrong
    /// with one, which is reported.
    pub(super) fn key_sources(
        &mut self,
        path: &[&str],
        first: OtherKey,
        also: Option<Vec<OtherKey>>,
    ) -> Option<Vec<KeySource>> {
        let all = std::iter::once(first).chain(also.into_iter().flatten());
        let sources: Vec<_> = all
            .enumerate()
            .map(|(index, key)| self.key_source(key_steps(path, index), key))
            .collect();
        sources.into_iter().collect()
    }

    fn key_source(&mut self, mut at: Vec<Step>, key: OtherKey) -> Option<KeySource> {
        match (key.sha256, key.env, key.file) {
            (Some(digest), None, None) => Some(KeySource::Sha256(digest.0)),
            (None, Some(name), None) if is_env_name(&name) => Some(KeySource::Env(name)),
            (None, Some(_), None) => {
                at.push(Step::from("env"));
                self.at_step(&at, "is not the name of a variable; write e.g. HERD_KEY");
                None
            }
            (None, None, Some(file)) => Some(KeySource::File(file.into())),
            _ => {
                let found = self.tree.locate(&at);
                if !self.problems.mentions(&found.name) && !self.problems.mentions_inside(&found.name) {
                    let message = "has to have exactly one of sha256, env and file";
                    self.problems.add(found.key_at, found.name, message);
                }
                None
            }
        }
    }

    fn network(&mut self, raw: raw::Network) -> Network {
        let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
        let connections = raw.max_connections.map_or(10_000, |count| count.0);
        let head = raw.max_header_size.map_or(64 << 10, |size| size.0);
        let fields = raw.max_headers.map_or(100, |count| count.0);
        let path = |key| ["network", key];
        let proxy_protocol = self.proxy_protocol(&raw);
        Network {
            tls: raw.tls.and_then(|tls| self.tls(tls)),
            proxy_protocol,
            data_bind: raw.data_bind.map_or(local, |address| address.0),
            header_timeout: raw.header_timeout.map_or(10 * SECOND, |time| time.0),
            idle_timeout: raw.idle_timeout.map_or(75 * SECOND, |time| time.0),
            max_connections: self.bounded(
                &path("max_connections"),
                connections,
                1,
                1_000_000,
                "1 to 1000000, e.g. 10000",
            ),
            max_header_size: self.bounded(
                &path("max_header_size"),
                head,
                8 << 10,
                1 << 20,
                "8K to 1M, e.g. 64K",
            ),
            max_headers: self.bounded(&path("max_headers"), fields, 1, 1000, "1 to 1000, e.g. 100"),
            trusted_proxies: raw
                .trusted_proxies
                .unwrap_or_default()
                .into_iter()
                .map(|cidr| cidr.0)
                .collect(),
            dead_peer_timeout: raw.dead_peer_timeout.map_or(30 * SECOND, |time| time.0),
            websocket_origins: raw
                .websocket_origins
                .map(|origins| origins.into_iter().map(|origin| origin.0).collect()),
        }
    }

    fn tls(&mut self, raw: raw::Tls) -> Option<Tls> {
        let mut file = |key, file: Option<String>| {
            let file = file.filter(|file| !file.is_empty());
            if file.is_none() {
                self.at_key(
                    &["network", "tls"],
                    format!("needs {key}, a file of PEM; write e.g. {{cert: /etc/herd/tls.crt, key: /etc/herd/tls.key}}"),
                );
            }
            file.map(PathBuf::from)
        };
        let (cert, key) = (file("cert", raw.cert), file("key", raw.key));
        Some(Tls {
            cert: cert?,
            key: key?,
        })
    }

    fn proxy_protocol(&mut self, raw: &raw::Network) -> ProxyProtocol {
        let Some(raw::ProxyProtocol::Required) = raw.proxy_protocol else {
            return ProxyProtocol::Off;
        };
        if raw.trusted_proxies.as_ref().is_none_or(Vec::is_empty) {
            self.at_key(
                &["network", "proxy_protocol"],
                "needs network.trusted_proxies: whoever else connects could claim to be anybody",
            );
        }
        ProxyProtocol::Required
    }

    fn session(&mut self, raw: raw::Session) -> Session {
        let header = raw
            .header
            .map_or(HeaderName::from_static("x-session-id"), |header| header.0);
        let mut headers = vec![header];
        for (index, alias) in raw.aliases.unwrap_or_default().into_iter().enumerate() {
            if headers.contains(&alias.0) {
                let mut path = steps(&["session", "aliases"]);
                path.push(Step::Index(index));
                let found = self.tree.locate(&path);
                let message = format!("{} is already looked for; remove it", alias.0);
                self.problems.add(found.value_at, found.name, message);
            } else {
                headers.push(alias.0);
            }
        }
        Session {
            headers,
            query: raw.query.map(|name| name.0),
            cookie: raw.cookie.map(|name| name.0),
            lost_status: raw.lost_status.map_or(StatusCode::GONE, |status| status.0),
            lost_for: raw.lost_for.map_or(10 * MINUTE, |time| time.0),
        }
    }
}

fn admission(raw: raw::Admission) -> Admission {
    Admission {
        memory: match raw.memory {
            Some(raw::MemoryAdmission::On) | None => MemoryAdmission::On,
            Some(raw::MemoryAdmission::Off) => MemoryAdmission::Off,
        },
        reserve: raw.reserve.map_or(256 << 20, |size| size.0 as u64),
    }
}

/// Which of `cmd`, `env` and `cwd` names the variable first.
pub(super) fn named_in(
    variable: Variable,
    cmd: &[Template],
    env: &BTreeMap<String, Template>,
    cwd: Option<&Template>,
) -> Option<&'static str> {
    found_in(|template| template.names(variable), cmd, env, cwd)
}

/// Which of `cmd`, `env` and `cwd` has such a template.
pub(super) fn found_in(
    is_such: impl Fn(&Template) -> bool,
    cmd: &[Template],
    env: &BTreeMap<String, Template>,
    cwd: Option<&Template>,
) -> Option<&'static str> {
    if cmd.iter().any(&is_such) {
        Some("cmd")
    } else if env.values().any(&is_such) {
        Some("env")
    } else {
        cwd.is_some_and(is_such).then_some("cwd")
    }
}

macro_rules! same_words {
    ($($name:ident { $($variant:ident),* })*) => { $(
        impl From<raw::$name> for model::$name {
            fn from(word: raw::$name) -> Self {
                match word {
                    $(raw::$name::$variant => Self::$variant,)*
                }
            }
        }
    )* };
}

same_words! {
    OnDisconnect { Kill, Ttl }
    Bind { Session, Connection }
    OnCrash { Lost, Respawn }
    HostHeader { Client, Worker }
    Protocol { Http1, H2 }
}
