//! What `workers` and `defaults` say, as kinds of workers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::model::{Kind, Liveness, Queue, Reuse, Route, SandboxChoice, Upstream};
use super::switch::{Switch, Wrong};
use super::template::{Template, Variable};
use super::text::is_env_name;
use super::units::{Count, TimeOrNever};
use super::validate::{Judge, named_in, steps};
use super::yaml::Step;
use super::{model, raw};
use crate::core::{KindId, is_name};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

impl Judge<'_> {
    pub(super) fn kinds(
        &mut self,
        workers: Option<super::text::InOrder<raw::Kind>>,
        defaults: &raw::Kind,
    ) -> Vec<Kind> {
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
        if !is_name(&name) {
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
            Some(Switch::Off) => return SandboxChoice::Off,
            Some(Switch::On(settings)) => *settings,
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
                self.at_settings(name, "sandbox", wrong);
                SandboxChoice::Unsaid
            }
        }
    }

    fn liveness(&mut self, name: &str, choice: Option<super::liveness::Choice>) -> Option<Liveness> {
        super::liveness::validated(choice).unwrap_or_else(|wrong| {
            self.at_settings(name, "liveness", wrong);
            None
        })
    }

    /// Reports what is wrong with the settings of a kind's `switch`, except where a mistake is reported already.
    fn at_settings(&mut self, name: &str, switch: &str, wrong: Vec<Wrong>) {
        for (key, message) in wrong {
            let setting: Vec<&str> = std::iter::once(switch).chain(key).collect();
            let path = setting.join(".");
            if !self.is_broken(name, &path)
                && !self.problems.mentions_inside(&format!("workers.{name}.{path}"))
            {
                self.at_setting(name, &setting, message);
            }
        }
    }

    pub(super) fn env_names(&mut self, env: &[&str], kind: &raw::Kind) {
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
            Some(_) => self.options(name, &cmd),
        }
        Some(cmd)
    }

    /// An id may begin with a dash, as options do: an argument that begins with one would be an option of its client's choice.
    fn options(&mut self, name: &str, cmd: &[Template]) {
        for (at, argument) in cmd.iter().enumerate() {
            let ended = at > 1 && cmd[at - 1].text() == Some("--");
            if !argument.begins_with_id() || ended {
                continue;
            }
            let message = match at {
                0 => {
                    "begins with {{.SessionID}}, so that a client would choose the program; write the program's name"
                }
                _ => {
                    "begins with {{.SessionID}}, which may begin with - and be an option of its client's choice; write e.g. \
                     --session={{.SessionID}}, or -- as the argument before, if that ends the program's options"
                }
            };
            let mut path = steps(&["workers", name, "cmd"]);
            path.push(Step::Index(at));
            self.at_step(&path, message);
        }
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
    pub(super) fn routes(&mut self, kinds: &[Kind]) {
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
