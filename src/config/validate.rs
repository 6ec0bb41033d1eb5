//! Raw → validated: defaults filled in, and everything judged that takes more than one value.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::model::{
    Admission, Config, ControlKey, History, KeySource, Kind, Lifetime, Liveness, May, MemoryAdmission,
    Network, ProxyProtocol, Queue, Reuse, Route, SandboxChoice, Session, Tls, Upstream,
};
use super::problem::Collector;
use super::raw::OtherKey;
use super::template::{Template, Variable};
use super::text::{Address, InOrder, is_env_name};
use super::units::{Count, TimeOrNever};
use super::yaml::{Node, Step};
use super::{model, raw};
use crate::core::KindId;

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
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
            if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
                self.at_key(&path, "is not a name; write 1 to 63 of a-z 0-9 _ -");
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

    fn kinds(&mut self, workers: Option<super::text::InOrder<raw::Kind>>, defaults: &raw::Kind) -> Vec<Kind> {
        const EXAMPLE: &str = "write e.g. workers: {app: {cmd: [\"my-server\", \"--port\", \"{{.Port}}\"]}}";
        let workers = match workers {
            Some(workers) => workers.0,
            None => {
                if !self.problems.mentions("workers") {
                    self.at_key(&[], format!("no workers are configured; {EXAMPLE}"));
                }
                return Vec::new();
            }
        };
        if workers.is_empty() && !self.problems.mentions("workers") {
            self.at_value(&["workers"], format!("holds no kind of worker; {EXAMPLE}"));
        }
        workers
            .into_iter()
            .filter_map(|(name, own)| self.kind(name, own, defaults))
            .collect()
    }

    fn kind(&mut self, name: String, own: raw::Kind, defaults: &raw::Kind) -> Option<Kind> {
        if !is_kind_name(&name) {
            self.at_key(
                &["workers", &name],
                "is not a name for workers; write at most 63 of a-z 0-9 _ -, a letter or digit first, e.g. browser",
            );
        }
        self.env_names(&["workers", &name, "env"], &own);
        let raw = merge(own, defaults);
        let cmd = self.cmd(&name, raw.cmd);
        let env: BTreeMap<String, Template> = raw
            .env
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| (name, value.0))
            .collect();
        let cwd = raw.cwd.map(|text| text.0);
        if cwd.as_ref().is_some_and(|cwd| *cwd == Template::default()) {
            self.at_setting(&name, &["cwd"], "is empty; write a directory, or remove the key");
        }
        let parts = cmd.as_deref().unwrap_or_default();
        let upstream = self.upstream(&name, parts, &env, cwd.as_ref());
        // Either makes its worker one for one known session.
        let per_session = [Variable::SessionId, Variable::Principal]
            .into_iter()
            .find(|variable| named_in(*variable, parts, &env, cwd.as_ref()).is_some());
        let (min, max) = self.limits(&name, &raw.min, &raw.max);
        if let Some(variable) = per_session
            && min > 0
            && !self.is_broken(&name, "min")
        {
            self.at_setting(
                &name,
                &["min"],
                format!(
                    "a kind that names {{{{.{}}}}} cannot run warm, because its workers are started for one known \
                     session; write 0",
                    variable.name()
                ),
            );
        }
        let reuse = if raw.reuse.unwrap_or(false) {
            Reuse::AfterSession
        } else {
            Reuse::Never
        };
        if let Some(variable) = per_session
            && reuse == Reuse::AfterSession
        {
            self.at_setting(
                &name,
                &["reuse"],
                format!(
                    "a kind that names {{{{.{}}}}} cannot serve a second session; write false",
                    variable.name()
                ),
            );
        }
        let max_lifetime = raw.max_lifetime.and_then(|time| time.0);
        if max_lifetime.is_some_and(|time| time.is_zero()) {
            self.at_setting(
                &name,
                &["max_lifetime"],
                "cannot be zero; write e.g. 8h, or never",
            );
        }
        let log_buffer = raw.log_buffer.map_or(256 << 10, |size| size.0);
        if !((4 << 10)..=(1 << 30)).contains(&log_buffer) {
            self.at_setting(
                &name,
                &["log_buffer"],
                "is out of range; write 4K to 1G, e.g. 256K",
            );
        }
        let sandbox = self.sandbox(&name, raw.sandbox, cwd.as_ref());
        let max_starting = raw.max_starting.as_ref().map(|count| count.0);
        if max_starting == Some(0) {
            self.at_setting(
                &name,
                &["max_starting"],
                "is 0, so no worker could ever start; write at least 1, or remove the key",
            );
        }
        let liveness = self.liveness(&name, raw.liveness);
        let queue = raw.queue.unwrap_or_default();
        let routes = self.kind_routes(&name, raw.routes);
        Some(Kind {
            id: KindId::default(),
            cmd: cmd?,
            env,
            env_passthrough: raw
                .env_passthrough
                .unwrap_or_default()
                .into_iter()
                .map(|p| p.0)
                .collect(),
            cwd,
            upstream,
            per_session: per_session.is_some(),
            min,
            max,
            max_starting,
            ttl: raw.ttl.unwrap_or(TimeOrNever(Some(15 * MINUTE))).0,
            max_lifetime,
            reuse,
            health_path: raw.health_path.map(|path| path.0),
            liveness,
            start_timeout: raw.start_timeout.map_or(30 * SECOND, |time| time.0),
            stop_timeout: raw.stop_timeout.map_or(5 * SECOND, |time| time.0),
            disconnect_grace: raw.disconnect_grace.map_or(Duration::ZERO, |time| time.0),
            on_disconnect: raw.on_disconnect.map_or(model::OnDisconnect::Kill, Into::into),
            bind: raw.bind.map_or(model::Bind::Session, Into::into),
            on_crash: raw.on_crash.map_or(model::OnCrash::Lost, Into::into),
            queue: Queue {
                max: queue.max.map_or(100, |count| count.0),
                timeout: queue.timeout.map_or(30 * SECOND, |time| time.0),
            },
            host_header: raw.host_header.map_or(model::HostHeader::Client, Into::into),
            protocol: raw.protocol.map_or(model::Protocol::Http1, Into::into),
            routes,
            sandbox,
            log_buffer,
            name,
        })
    }

    fn sandbox(
        &mut self,
        name: &str,
        choice: Option<super::sandbox::Choice>,
        cwd: Option<&Template>,
    ) -> SandboxChoice {
        let settings = match choice {
            None => return SandboxChoice::Unsaid,
            Some(super::sandbox::Choice::Off) => return SandboxChoice::Off,
            Some(super::sandbox::Choice::On(settings)) => *settings,
        };
        if cwd.is_some_and(|cwd| !cwd.is_absolute()) {
            self.at_setting(
                name,
                &["cwd"],
                "is relative, but a sandbox has no directory herd was started in; write an absolute path",
            );
        }
        match super::sandbox::validated(settings) {
            Ok(sandbox) => SandboxChoice::On(Arc::new(sandbox)),
            Err(wrong) => {
                for (key, message) in wrong {
                    let setting: Vec<&str> = std::iter::once("sandbox").chain(key).collect();
                    let path = setting.join(".");
                    if !self.is_broken(name, &path)
                        && !self.problems.mentions_inside(&format!("workers.{name}.{path}"))
                    {
                        self.at_setting(name, &setting, message);
                    }
                }
                SandboxChoice::Unsaid
            }
        }
    }

    fn liveness(&mut self, name: &str, choice: Option<super::liveness::Choice>) -> Option<Liveness> {
        let wrong = match super::liveness::validated(choice) {
            Ok(liveness) => return liveness,
            Err(wrong) => wrong,
        };
        for (key, message) in wrong {
            let setting: Vec<&str> = std::iter::once("liveness").chain(key).collect();
            let path = setting.join(".");
            if !self.is_broken(name, &path)
                && !self.problems.mentions_inside(&format!("workers.{name}.{path}"))
            {
                self.at_setting(name, &setting, message);
            }
        }
        None
    }

    fn env_names(&mut self, env: &[&str], kind: &raw::Kind) {
        for name in kind
            .env
            .iter()
            .flatten()
            .map(|(name, _)| name)
            .filter(|name| !is_env_name(name))
        {
            let message =
                "is not a variable name; write letters, digits, _ . - and no digit first, e.g. LOG_LEVEL";
            self.at_key(&[env, &[name.as_str()]].concat(), message);
        }
    }

    fn cmd(&mut self, name: &str, cmd: Option<Vec<super::text::TemplateText>>) -> Option<Vec<Template>> {
        const EXAMPLE: &str = "e.g. [\"my-server\", \"--port\", \"{{.Port}}\"]";
        let key = format!("workers.{name}.cmd");
        let broken = self.problems.mentions(&key) || self.problems.mentions_inside(&key);
        let Some(cmd) = cmd else {
            if !broken && !self.problems.mentions(&format!("workers.{name}")) {
                self.at_key(
                    &["workers", name],
                    format!("has no cmd; write cmd: with program and arguments, {EXAMPLE}"),
                );
            }
            return None;
        };
        let cmd: Vec<Template> = cmd.into_iter().map(|text| text.0).collect();
        if broken {
            return Some(cmd);
        }
        match cmd.first() {
            None => self.at_value(&["workers", name, "cmd"], format!("is empty; write {EXAMPLE}")),
            Some(program) if *program == Template::default() => {
                self.at_value(
                    &["workers", name, "cmd"],
                    format!("names no program; write {EXAMPLE}"),
                );
            }
            Some(_) => {}
        }
        Some(cmd)
    }

    /// How the worker is reached, from what its templates name.
    fn upstream(
        &mut self,
        name: &str,
        cmd: &[Template],
        env: &BTreeMap<String, Template>,
        cwd: Option<&Template>,
    ) -> Upstream {
        let socket = named_in(Variable::Socket, cmd, env, cwd);
        let port = named_in(Variable::Port, cmd, env, cwd);
        let Some(place) = socket else {
            return Upstream::Port;
        };
        if let Some(other) = port {
            self.at_setting(
                name,
                &[place],
                format!(
                    "{{{{.Socket}}}} is named here and {{{{.Port}}}} in {other}, but a worker is reached over one of \
                     them; keep one"
                ),
            );
        }
        Upstream::Socket
    }

    fn limits(&mut self, name: &str, min: &Option<Count>, max: &Option<Count>) -> (usize, usize) {
        let min = min.as_ref().map_or(0, |count| count.0);
        let given_max = max.as_ref().map(|count| count.0);
        let max = given_max.unwrap_or(10);
        if max == 0 {
            self.at_setting(
                name,
                &["max"],
                "is 0, so no worker could ever start; write at least 1",
            );
        } else if min > max && !self.is_broken(name, "min") && !self.is_broken(name, "max") {
            let which = if given_max.is_some() { "" } else { "the default " };
            self.at_setting(
                name,
                &["min"],
                format!("is {min}, more than {which}max {max}; write at most {max}, or raise max"),
            );
        }
        (min, max)
    }

    fn kind_routes(&mut self, name: &str, routes: Option<Vec<raw::Route>>) -> Vec<Route> {
        const EXAMPLE: &str = "write e.g. {path_prefix: /browser} or {host: app.example.com}";
        let Some(routes) = routes else { return Vec::new() };
        if routes.is_empty() && !self.problems.mentions_inside(&format!("workers.{name}.routes")) {
            self.at_setting(name, &["routes"], format!("is empty; remove it, or {EXAMPLE}"));
        }
        let route = |(index, route): (usize, raw::Route)| {
            if route.host.is_none() && route.path_prefix.is_none() {
                let found = self.route(name, index);
                let inside_reported = self.problems.mentions_inside(&found.name);
                if !inside_reported {
                    self.problems
                        .add(found.value_at, found.name, format!("matches nothing; {EXAMPLE}"));
                }
            }
            Route {
                host: route.host.map(|h| h.0),
                path_prefix: route.path_prefix.map(|p| p.0),
            }
        };
        routes.into_iter().enumerate().map(route).collect()
    }

    fn route(&self, name: &str, index: usize) -> super::yaml::Located {
        let mut path = steps(&["workers", name, "routes"]);
        if !self.tree.locate(&path).complete {
            path = steps(&["defaults", "routes"]);
        }
        path.push(Step::Index(index));
        self.tree.locate(&path)
    }

    /// The same route twice would make the second one unreachable.
    fn routes(&mut self, kinds: &[Kind]) {
        let mut seen: Vec<(&Route, &str, usize)> = Vec::new();
        for kind in kinds {
            for (index, route) in kind.routes.iter().enumerate() {
                if route.host.is_none() && route.path_prefix.is_none() {
                    continue;
                }
                if let Some((_, owner, line)) = seen.iter().find(|(other, ..)| *other == route) {
                    let message = format!(
                        "the same route already leads to {owner} (line {line}); remove one of the two"
                    );
                    let found = self.route(&kind.name, index);
                    self.problems.add(found.value_at, found.name, message);
                } else {
                    seen.push((route, &kind.name, self.route(&kind.name, index).value_at.line));
                }
            }
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

fn is_kind_name(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 63
        && name.bytes().next().is_some_and(word)
        && name.bytes().all(|b| word(b) || matches!(b, b'_' | b'-'))
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

/// A kind's own settings win; `env` and `queue` are merged key by key.
fn merge(own: raw::Kind, defaults: &raw::Kind) -> raw::Kind {
    macro_rules! pick {
        ($($key:ident),*) => {
            raw::Kind {
                cmd: own.cmd,
                env: match (own.env, &defaults.env) {
                    (Some(own), Some(defaults)) => {
                        let mut env = defaults.clone();
                        env.extend(own);
                        Some(env)
                    }
                    (own, defaults) => own.or_else(|| defaults.clone()),
                },
                queue: match (own.queue, &defaults.queue) {
                    (Some(own), Some(defaults)) => Some(raw::Queue {
                        max: own.max.or(defaults.max),
                        timeout: own.timeout.or(defaults.timeout),
                    }),
                    (own, defaults) => own.or_else(|| defaults.clone()),
                },
                sandbox: super::sandbox::merge(own.sandbox, defaults.sandbox.as_ref()),
                $($key: own.$key.or_else(|| defaults.$key.clone()),)*
            }
        };
    }
    pick!(
        env_passthrough,
        cwd,
        min,
        max,
        max_starting,
        ttl,
        max_lifetime,
        reuse,
        health_path,
        liveness,
        start_timeout,
        stop_timeout,
        disconnect_grace,
        on_disconnect,
        bind,
        on_crash,
        host_header,
        protocol,
        routes,
        log_buffer
    )
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
