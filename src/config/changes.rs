//! What is different between two configurations, as far as it matters to a herd that goes from one to the other. Every
//! setting is named here, so that a new one cannot be forgotten: either it may change while herd runs, or it is told
//! that it may not.

use super::model::{Config, History, Kind, Network, Traces};

impl Config {
    /// The settings, as paths in the file, that differ in `next` and that only a start can take: what was made of them
    /// is there already, and in use.
    pub fn needs_restart_for(&self, next: &Config) -> Vec<Vec<&'static str>> {
        let Config {
            network,
            control_socket,
            control_tcp,
            control_keys: _,
            control_hosts: _,
            auth,
            history,
            access_log: _,
            traces,
            state_dir,
            lifetime,
            session: _,
            admission: _,
            drain_timeout: _,
            kinds: _,
            former: _,
        } = self;
        let Network {
            data_bind,
            max_connections: _,
            header_timeout: _,
            idle_timeout: _,
            max_header_size: _,
            max_headers: _,
            trusted_proxies: _,
            dead_peer_timeout: _,
            tls,
            proxy_protocol: _,
            websocket_origins: _,
        } = network;
        // Other files are read instead; what the port speaks stays.
        let speaks_tls = tls.is_some();
        // With principals a session's name is another.
        let has_principals = auth.is_some();
        let History { dir, size } = history;
        let mut compared: Vec<(&[&'static str], bool)> = vec![
            (&["network", "data_bind"], *data_bind == next.network.data_bind),
            (&["network", "tls"], speaks_tls == next.network.tls.is_some()),
            (&["control", "socket"], *control_socket == next.control_socket),
            (&["control", "tcp"], *control_tcp == next.control_tcp),
            (&["auth"], has_principals == next.auth.is_some()),
            (&["history", "dir"], *dir == next.history.dir),
            (&["history", "size"], *size == next.history.size),
            (&["state_dir"], *state_dir == next.state_dir),
            (&["lifetime"], *lifetime == next.lifetime),
        ];
        match (traces, &next.traces) {
            (Some(old), Some(next)) => {
                let Traces {
                    endpoint,
                    // Which requests are traced may change; where the spans go may not.
                    sample: _,
                    service_name,
                    headers,
                } = old;
                compared.extend([
                    (&["traces", "endpoint"] as &[_], *endpoint == next.endpoint),
                    (&["traces", "service_name"], *service_name == next.service_name),
                    (&["traces", "headers"], *headers == next.headers),
                ]);
            }
            (old, next) => compared.push((&["traces"], old.is_some() == next.is_some())),
        }
        let differs = compared.into_iter().filter(|(_, same)| !same);
        differs.map(|(path, _)| path.to_vec()).collect()
    }
}

impl Kind {
    /// Whether a worker of this kind is as good as one of `next`, so that it may serve `next`'s sessions.
    pub fn has_the_workers_of(&self, next: &Kind) -> bool {
        let Kind {
            cmd,
            env,
            env_passthrough,
            cwd,
            upstream,
            per_session,
            // A worker that has served must not serve again where that is no longer wanted.
            reuse,
            health_path,
            protocol,
            sandbox,
            log_buffer,
            name: _,
            id: _,
            min: _,
            max: _,
            max_starting: _,
            ttl: _,
            max_lifetime: _,
            // Those who watch its workers go by the new one at once.
            liveness: _,
            start_timeout: _,
            stop_timeout: _,
            disconnect_grace: _,
            on_disconnect: _,
            bind: _,
            on_crash: _,
            queue: _,
            host_header: _,
            routes: _,
        } = self;
        *cmd == next.cmd
            && *env == next.env
            && *env_passthrough == next.env_passthrough
            && *cwd == next.cwd
            && *upstream == next.upstream
            && *per_session == next.per_session
            && *reuse == next.reuse
            && *health_path == next.health_path
            && *protocol == next.protocol
            // To say `off` is to say what is so already.
            && sandbox.on() == next.sandbox.on()
            && *log_buffer == next.log_buffer
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, parse};

    fn config(text: &str) -> Config {
        parse(text, "herd.yaml").unwrap()
    }

    fn with(top: &str, kind: &str) -> Config {
        config(&format!("{top}\nworkers: {{a: {{cmd: [x], {kind}}}}}\n"))
    }

    #[test]
    fn what_only_a_start_can_take_is_named() {
        let old = with("", "");
        for (top, path) in [
            ("network: {data_bind: \"127.0.0.1:1\"}", "network.data_bind"),
            ("control: {socket: /run/c}", "control.socket"),
            ("state_dir: /run/s", "state_dir"),
            ("lifetime: strict", "lifetime"),
            ("network: {tls: {cert: /c, key: /k}}", "network.tls"),
            ("auth: {keys: {k: {env: K}}}", "auth"),
            ("traces: {endpoint: \"http://h/v1/traces\"}", "traces"),
        ] {
            let needs = old.needs_restart_for(&with(top, ""));
            assert_eq!(needs.iter().map(|p| p.join(".")).collect::<Vec<_>>(), [path]);
        }
        let tcp = "control: {tcp: \"127.0.0.1:0\", keys: {k: {env: K}}}";
        assert_eq!(old.needs_restart_for(&with(tcp, "")), [["control", "tcp"]]);
        let keys = "control: {tcp: \"127.0.0.1:0\", keys: {l: {env: L}}, hosts: [h]}";
        assert!(with(tcp, "").needs_restart_for(&with(keys, "")).is_empty());
        let auth = |keys: &str| with(&format!("auth: {{keys: {{{keys}}}}}"), "");
        let other = auth("k: {env: L, workers: [a], sessions: 1, session_rate: 1/s, rate: 1/s}, l: {env: M}");
        assert!(auth("k: {env: K}").needs_restart_for(&other).is_empty());
        let live = "network: {max_connections: 5, header_timeout: 1s, idle_timeout: 2s, max_header_size: 9K, max_headers: 9, \
                    trusted_proxies: [\"10.0.0.0/8\"], dead_peer_timeout: 9s, proxy_protocol: required, websocket_origins: [\"*\"]}\n\
                    session: {header: X-Other, lost_for: 1s}\nadmission: {memory: off, reserve: 1M}\ndrain_timeout: 1s\n\
                    access_log: {path: /l, sample: 0.1}";
        assert!(old.needs_restart_for(&with(live, "max: 3")).is_empty());
        let tls = |cert: &str| with(&format!("network: {{tls: {{cert: {cert}, key: /k}}}}"), "");
        assert!(tls("/a").needs_restart_for(&tls("/b")).is_empty());
        let traces = |more: &str| with(&format!("traces: {{endpoint: \"http://h/v1/traces\"{more}}}"), "");
        assert!(traces("").needs_restart_for(&traces(", sample: 0.5")).is_empty());
        assert_eq!(
            traces("").needs_restart_for(&traces(", service_name: x")),
            [["traces", "service_name"]]
        );
        let history = |what: &str| with(&format!("history: {{{what}}}"), "");
        for (what, key) in [("dir: /h", "dir"), ("size: 1M", "size")] {
            assert_eq!(old.needs_restart_for(&history(what)), [["history", key]]);
        }
    }

    #[test]
    fn a_change_of_what_a_worker_is_makes_others_and_a_change_of_rules_does_not() {
        let old = with("", "");
        let same = |kind: &str| old.kinds[0].has_the_workers_of(&with("", kind).kinds[0]);
        for kind in [
            "env: {A: b}",
            "env_passthrough: [A]",
            "cwd: /tmp",
            "reuse: true",
            "health_path: /h",
            "protocol: h2",
            "log_buffer: 1M",
            "sandbox: host",
        ] {
            assert!(!same(kind), "{kind}");
        }
        let other = config("workers: {a: {cmd: [y]}}");
        assert!(!old.kinds[0].has_the_workers_of(&other.kinds[0]));
        for kind in [
            "min: 1",
            "max: 3",
            "max_starting: 1",
            "ttl: 1m",
            "max_lifetime: 1h",
            "liveness: /h",
            "start_timeout: 1s",
            "stop_timeout: 1s",
            "disconnect_grace: 1s",
            "on_disconnect: ttl",
            "bind: connection",
            "on_crash: respawn",
            "queue: {max: 1}",
            "host_header: worker",
            "routes: [{host: a}]",
            "sandbox: off",
        ] {
            assert!(same(kind), "{kind}");
        }
    }
}
