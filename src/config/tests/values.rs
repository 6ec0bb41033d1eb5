use std::time::Duration;

use super::*;
use crate::config::{
    AccessLog, Admission, ControlKey, DataKey, HeaderSource, KeySource, Liveness, LogTarget, May,
    MemoryAdmission, Origin, ProxyProtocol, Query, Rate, SessionShown, Share, Tls, TokenSecret, Tokens,
    Traces,
};
use crate::core::{Allowance, KindId};

#[test]
fn the_documented_example_gives_exactly_the_documented_values() {
    let config = good(ISSUE);
    assert_eq!(config.network.data_bind.to_string(), "127.0.0.1:8080");
    assert_eq!(config.kinds.len(), 1);
    assert_eq!(config.kind_named("browser"), Some(KindId(0)));
    let kind = &config.kinds[0];
    let values = Values {
        port: Some(4711),
        ..Values::default()
    };
    let cmd: Vec<String> = kind.cmd.iter().map(|part| part.render(&values)).collect();
    assert_eq!(cmd, ["npx", "playwright", "run-server", "--port", "4711"]);
    assert_eq!((kind.min, kind.max), (1, 5));
    assert_eq!(kind.ttl, Some(Duration::from_secs(900)));
    assert_eq!(kind.reuse, Reuse::Never);
    assert_eq!(kind.health_path.as_deref(), Some("/"));
    assert_eq!(kind.upstream, Upstream::Port);
    assert!(!kind.per_session);
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = good("workers:\n  a:\n    cmd: [x]\n");
    let network = &config.network;
    assert_eq!(network.header_timeout, Duration::from_secs(10));
    assert_eq!(network.idle_timeout, Duration::from_secs(75));
    assert_eq!(
        (
            network.max_connections,
            network.max_header_size,
            network.max_headers
        ),
        (10_000, 64 << 10, 100)
    );
    assert_eq!(network.trusted_proxies, []);
    assert_eq!(
        (&network.tls, network.proxy_protocol),
        (&None, ProxyProtocol::Off)
    );
    assert_eq!(network.dead_peer_timeout, Duration::from_secs(30));
    assert_eq!((&config.auth, &network.websocket_origins), (&None, &None));
    assert_eq!(config.session.headers, ["x-session-id"]);
    assert_eq!((&config.session.query, &config.session.cookie), (&None, &None));
    assert_eq!(config.session.lost_status, http::StatusCode::GONE);
    assert_eq!(config.session.lost_for, Duration::from_secs(600));
    assert_eq!((&config.control_socket, &config.state_dir), (&None, &None));
    let history = crate::config::History {
        dir: None,
        size: Some(8 << 20),
    };
    assert_eq!(config.history, history);
    assert_eq!(config.access_log, None);
    assert_eq!(config.traces, None);
    assert_eq!(config.lifetime, Lifetime::BestEffort);
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
    let admission = Admission {
        memory: MemoryAdmission::On,
        reserve: 256 << 20,
    };
    assert_eq!(config.admission, admission);
    let kind = &config.kinds[0];
    assert_eq!(
        (kind.name.as_str(), kind.min, kind.max, kind.max_starting),
        ("a", 0, 10, None)
    );
    assert_eq!(
        (kind.ttl, kind.max_lifetime),
        (Some(Duration::from_secs(900)), None)
    );
    assert_eq!(
        (kind.reuse, kind.upstream, kind.per_session),
        (Reuse::Never, Upstream::Port, false)
    );
    assert_eq!((&kind.health_path, &kind.liveness), (&None, &None));
    assert_eq!(kind.start_timeout, Duration::from_secs(30));
    assert_eq!(
        (kind.stop_timeout, kind.disconnect_grace),
        (Duration::from_secs(5), Duration::ZERO)
    );
    assert_eq!(
        (kind.on_disconnect, kind.bind, kind.on_crash),
        (OnDisconnect::Kill, Bind::Session, OnCrash::Lost)
    );
    assert_eq!(
        kind.queue,
        Queue {
            max: 100,
            timeout: Duration::from_secs(30)
        }
    );
    assert_eq!(
        (kind.host_header, kind.protocol),
        (HostHeader::Client, Protocol::Http1)
    );
    assert_eq!(
        (kind.log_buffer, kind.env.len(), kind.env_passthrough.len()),
        (256 << 10, 0, 0)
    );
    assert_eq!((kind.routes.len(), &kind.cwd), (0, &None));
}

#[test]
fn every_key_changes_what_it_is_documented_to_change() {
    let config = good(
        r#"
network:
  data_bind: "[::1]:9"
  header_timeout: 1s
  idle_timeout: 2s
  max_connections: 3
  max_header_size: 8K
  max_headers: 4
  trusted_proxies: [10.0.0.0/8, "::1"]
  dead_peer_timeout: 5s
  tls: {cert: /c.pem, key: /k.pem}
  proxy_protocol: required
  websocket_origins: ["*", "http://*.example.com:*"]
auth:
  keys:
    alice: {env: ALICE, also: [{env: ALICE_OLD}], workers: [a], sessions: 3, session_rate: 30/m, session_burst: 4, rate: 600/m, burst: 5}
    bob: {sha256: c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1, session_rate: 7200/h, rate: 90/m}
    carol: {file: /carol, rate: 5/h}
  tokens: {secrets: [{env: S1}, {file: /s2}], cookie: tok_c, query: tok}
session: {header: X-Id, aliases: [Mcp-Session-Id], query: sid, cookie: sid_c, lost_status: 404, lost_for: 6s}
control:
  socket: /run/c.sock
  tcp: "[::1]:7"
  keys: {a: {env: A_KEY, also: [{env: OLD_A}]}, b: {file: /b, may: metrics}, c: {sha256: c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0, may: control}}
  hosts: [Herd.Example.com]
state_dir: /run/s
history: {dir: /var/h, size: 1M}
access_log: {path: /var/l, sample: 1/4, query: true, session: hash}
traces:
  endpoint: https://otlp.example.com:4318/v1/traces
  sample: 0.01
  service_name: front
  headers: {X-Tenant: {value: t}, Authorization: {env: OTLP}, x-file: {file: /h}}
lifetime: strict
admission: {memory: off, reserve: 1G}
drain_timeout: 7s
workers:
  z:
    cmd: [x, "{{.Socket}}", 8080, true, 1.10]
    env: {SID: "{{.Principal}}:{{.SessionID}}", PORT_BASE: 0x10, EMPTY: ""}
    env_passthrough: [AWS_*, DISPLAY]
    cwd: "{{.Dir}}"
    max: 2
    max_starting: 1
    ttl: never
    max_lifetime: 1h30m
    health_path: /healthz?full=1
    liveness: {path: /alive, interval: 4s, timeout: 3s, failures: 2}
    start_timeout: 250ms
    stop_timeout: 0s
    disconnect_grace: 8s
    on_disconnect: ttl
    bind: connection
    on_crash: respawn
    queue: {max: 0, timeout: 9s}
    host_header: worker
    protocol: h2
    routes: [{host: App.Example.com}, {path_prefix: /a/}, {host: "[::1]", path_prefix: /}]
    log_buffer: 1M
  a: {cmd: [y], min: 1, reuse: true}
"#,
    );
    let network = &config.network;
    assert_eq!(network.data_bind.to_string(), "[::1]:9");
    assert_eq!(
        (network.header_timeout, network.idle_timeout),
        (Duration::from_secs(1), Duration::from_secs(2))
    );
    assert_eq!(
        (
            network.max_connections,
            network.max_header_size,
            network.max_headers
        ),
        (3, 8192, 4)
    );
    let trusted: Vec<String> = network.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(trusted, ["10.0.0.0/8", "::1/128"]);
    assert_eq!(network.dead_peer_timeout, Duration::from_secs(5));
    let files = Tls {
        cert: "/c.pem".into(),
        key: "/k.pem".into(),
    };
    assert_eq!(
        (&network.tls, network.proxy_protocol),
        (&Some(files), ProxyProtocol::Required)
    );
    let origins = network.websocket_origins.as_ref().unwrap();
    let fits = |index: usize, origin| origins[index].matches(&Origin::parse(origin).unwrap());
    assert!(fits(0, "https://any") && fits(1, "http://a.example.com:7") && !fits(1, "https://a.example.com"));
    assert_eq!(
        config.secret_variables(),
        ["ALICE", "ALICE_OLD", "A_KEY", "OLD_A", "OTLP", "S1"].into()
    );
    let auth = config.auth.as_ref().unwrap();
    let minute = Duration::from_secs(60);
    let data_key = |name: &str, source, rate| DataKey {
        name: name.to_owned(),
        sources: vec![source],
        workers: None,
        allowance: Allowance::default(),
        rate: Some(rate),
    };
    let rate = |number, per, burst| Rate { number, per, burst };
    let session_rate = |number, per, burst| Some(rate(number, per, burst));
    assert_eq!(
        auth.keys,
        [
            DataKey {
                workers: Some(vec![KindId(1)]),
                allowance: Allowance {
                    sessions: Some(3),
                    session_rate: session_rate(30, minute, 4),
                },
                sources: ["ALICE", "ALICE_OLD"]
                    .map(|name| KeySource::Env(name.into()))
                    .to_vec(),
                ..data_key("alice", KeySource::Env("ALICE".into()), rate(600, minute, 5))
            },
            DataKey {
                allowance: Allowance {
                    sessions: None,
                    session_rate: session_rate(7200, 60 * minute, 2),
                },
                ..data_key("bob", KeySource::Sha256([0xc1; 32]), rate(90, minute, 1))
            },
            data_key("carol", KeySource::File("/carol".into()), rate(5, 60 * minute, 1)),
        ]
    );
    assert_eq!(
        auth.tokens,
        Tokens {
            secrets: vec![TokenSecret::Env("S1".into()), TokenSecret::File("/s2".into())],
            cookie: "tok_c".into(),
            query: "tok".into(),
        }
    );
    let session = &config.session;
    assert_eq!(session.headers, ["x-id", "mcp-session-id"]);
    assert_eq!(
        (session.query.as_deref(), session.cookie.as_deref()),
        (Some("sid"), Some("sid_c"))
    );
    assert_eq!(
        (session.lost_status.as_u16(), session.lost_for),
        (404, Duration::from_secs(6))
    );
    assert_eq!(config.control_socket.as_deref(), Some("/run/c.sock".as_ref()));
    assert_eq!(config.control_tcp, Some("[::1]:7".parse().unwrap()));
    let key = |name: &str, source, may| ControlKey {
        name: name.to_owned(),
        sources: vec![source],
        may,
    };
    assert_eq!(
        config.control_keys,
        [
            ControlKey {
                sources: ["A_KEY", "OLD_A"]
                    .map(|name| KeySource::Env(name.into()))
                    .to_vec(),
                ..key("a", KeySource::Env("A_KEY".to_owned()), May::Read)
            },
            key("b", KeySource::File("/b".into()), May::Metrics),
            key("c", KeySource::Sha256([0xc0; 32]), May::Control),
        ]
    );
    assert_eq!(config.control_hosts, ["herd.example.com"]);
    assert_eq!(
        (config.history.dir.as_deref(), config.history.size),
        (Some("/var/h".as_ref()), Some(1 << 20))
    );
    let access_log = AccessLog {
        to: LogTarget::File("/var/l".into()),
        sample: Share::new(0.25).unwrap(),
        query: Query::Kept,
        session: SessionShown::Hash,
    };
    assert_eq!(config.access_log, Some(access_log));
    let header = |spelled: &str, source| TracesHeader {
        name: spelled.parse().unwrap(),
        spelled: spelled.to_owned(),
        source,
    };
    let traces = Traces {
        endpoint: http::Uri::from_static("https://otlp.example.com:4318/v1/traces"),
        sample: Share::new(0.01).unwrap(),
        service_name: "front".into(),
        headers: vec![
            header(
                "X-Tenant",
                HeaderSource::Value(http::HeaderValue::from_static("t")),
            ),
            header("Authorization", HeaderSource::Env("OTLP".into())),
            header("x-file", HeaderSource::File("/h".into())),
        ],
    };
    assert_eq!(config.traces, Some(traces));
    assert_eq!(config.state_dir.as_deref(), Some("/run/s".as_ref()));
    assert_eq!(
        (config.lifetime, config.drain_timeout),
        (Lifetime::Strict, Duration::from_secs(7))
    );
    let admission = Admission {
        memory: MemoryAdmission::Off,
        reserve: 1 << 30,
    };
    assert_eq!(config.admission, admission);

    let names: Vec<&str> = config.kinds.iter().map(|kind| kind.name.as_str()).collect();
    assert_eq!(names, ["z", "a"], "kinds keep the order of the file");
    let kind = &config.kinds[0];
    let values = Values {
        socket: Some("/s".into()),
        session_id: Some("id".into()),
        principal: Some("alice".into()),
        dir: "/d".into(),
        ..Values::default()
    };
    let render = |template: &Template| template.render(&values);
    let cmd: Vec<String> = kind.cmd.iter().map(render).collect();
    assert_eq!(cmd, ["x", "/s", "8080", "true", "1.10"]);
    let env: Vec<(&str, String)> = kind.env.iter().map(|(k, v)| (k.as_str(), render(v))).collect();
    assert_eq!(
        env,
        [
            ("EMPTY", String::new()),
            ("PORT_BASE", "0x10".into()),
            ("SID", "alice:id".into())
        ]
    );
    assert_eq!(kind.env_passthrough, ["AWS_*", "DISPLAY"]);
    assert_eq!(kind.cwd.as_ref().map(render).as_deref(), Some("/d"));
    assert_eq!(
        (kind.upstream, kind.per_session, kind.max, kind.max_starting),
        (Upstream::Socket, true, 2, Some(1))
    );
    assert_eq!(
        (kind.ttl, kind.max_lifetime),
        (None, Some(Duration::from_secs(5400)))
    );
    assert_eq!(kind.health_path.as_deref(), Some("/healthz?full=1"));
    let liveness = Liveness {
        path: "/alive".to_owned(),
        interval: Duration::from_secs(4),
        timeout: Duration::from_secs(3),
        failures: 2,
    };
    assert_eq!(kind.liveness, Some(liveness));
    assert_eq!(
        (kind.start_timeout, kind.stop_timeout),
        (Duration::from_millis(250), Duration::ZERO)
    );
    assert_eq!(kind.disconnect_grace, Duration::from_secs(8));
    assert_eq!(
        (kind.on_disconnect, kind.bind, kind.on_crash),
        (OnDisconnect::Ttl, Bind::Connection, OnCrash::Respawn)
    );
    assert_eq!(
        kind.queue,
        Queue {
            max: 0,
            timeout: Duration::from_secs(9)
        }
    );
    assert_eq!(
        (kind.host_header, kind.protocol, kind.log_buffer),
        (HostHeader::Worker, Protocol::H2, 1 << 20)
    );
    let routes: Vec<_> = kind
        .routes
        .iter()
        .map(|r| (r.host.as_deref(), r.path_prefix.as_deref()))
        .collect();
    assert_eq!(
        routes,
        [
            (Some("app.example.com"), None),
            (None, Some("/a")),
            (Some("[::1]"), Some("/"))
        ]
    );
    let second = &config.kinds[1];
    assert_eq!((second.min, second.reuse), (1, Reuse::AfterSession));
}

#[test]
fn an_access_log_has_every_request_and_no_query() {
    let config = good("access_log: {path: stdout}\nworkers: {a: {cmd: [x]}}\n");
    let access_log = AccessLog {
        to: LogTarget::Stdout,
        sample: Share::ALL,
        query: Query::LeftOut,
        session: SessionShown::Plain,
    };
    assert_eq!(config.access_log, Some(access_log));
}

#[test]
fn a_path_is_enough_for_liveness_and_a_kind_can_be_without_that_of_defaults() {
    let config = good(
        "defaults: {liveness: /alive}\nworkers:\n  own: {cmd: [x], liveness: {path: /h, failures: 9}}\n  \
         plain: {cmd: [x]}\n  none: {cmd: [x], liveness: off}\n",
    );
    let liveness = |path: &str, failures| Liveness {
        path: path.to_owned(),
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(2),
        failures,
    };
    let found: Vec<_> = config.kinds.iter().map(|kind| kind.liveness.clone()).collect();
    assert_eq!(
        found,
        [Some(liveness("/h", 9)), Some(liveness("/alive", 3)), None]
    );
}

#[test]
fn a_kinds_own_key_wins_over_defaults_and_env_merges() {
    let config = good(
        "defaults:\n  ttl: 5m\n  max: 3\n  env: {A: 1, B: 2}\n  queue: {max: 7}\n\
         workers:\n  own:\n    cmd: [x]\n    ttl: never\n    env: {B: mine}\n    queue: {timeout: 1s}\n  \
         plain: {cmd: [x]}\n",
    );
    let render = |kind: &Kind| -> Vec<String> {
        kind.env
            .iter()
            .map(|(k, v)| format!("{k}={}", v.render(&Values::default())))
            .collect()
    };
    let (own, plain) = (&config.kinds[0], &config.kinds[1]);
    assert_eq!((own.ttl, own.max, own.queue.max), (None, 3, 7));
    assert_eq!(own.queue.timeout, Duration::from_secs(1));
    assert_eq!(render(own), ["A=1", "B=mine"]);
    assert_eq!((plain.ttl, plain.queue.max), (Some(Duration::from_secs(300)), 7));
    assert_eq!(render(plain), ["A=1", "B=2"]);
}

#[test]
fn aliases_work_within_a_budget() {
    let config = good("workers:\n  a: &a {cmd: [x], max: 3}\n  b: *a\n");
    assert_eq!(config.kinds[1].max, 3);

    let mut bomb = "a: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..9 {
        let copies = vec![format!("*a{}", level - 1); 10].join(",");
        bomb += &format!("b{level}: &a{level} [{copies}]\n");
    }
    let problems = bad(&bomb);
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].ends_with("the file holds more than 20000 values, aliases counted as copies"),
        "{problems:?}"
    );

    let deep = format!("a: {}{}", "[".repeat(60), "]".repeat(60));
    let problems = bad(&deep);
    assert!(
        problems[0].ends_with("nested more than 32 levels deep; flatten it"),
        "{problems:?}"
    );
}

#[test]
fn a_kind_that_says_nothing_of_a_sandbox_is_told_from_one_that_wants_none() {
    let config = good("workers:\n  a: {cmd: [x]}\n  b: {cmd: [x], sandbox: off}\n");
    assert!(matches!(config.kinds[0].sandbox, SandboxChoice::Unsaid));
    assert!(matches!(config.kinds[1].sandbox, SandboxChoice::Off));
}

#[test]
fn a_sandbox_has_safe_defaults() {
    for text in ["sandbox: host", "sandbox: {rootfs: host}"] {
        let config = good(&super::kind(text));
        let sandbox = config.kinds[0].sandbox.on().expect("it is on");
        assert_eq!(
            (&sandbox.root, &sandbox.profile, sandbox.network, sandbox.require),
            (
                &Root::Host,
                &Profile::Strict,
                SandboxNetwork::None,
                Require::Strict
            )
        );
        assert_eq!(
            (sandbox.limits.memory, sandbox.limits.cpus, sandbox.limits.pids),
            (None, None, 512)
        );
        assert_eq!(
            (sandbox.tmpfs, sandbox.user, sandbox.mounts.len()),
            (64 << 20, None, 0)
        );
    }
    let config = good(&super::kind("sandbox: {rootfs: host, profile: browser}"));
    assert_eq!(config.kinds[0].sandbox.on().expect("it is on").tmpfs, 512 << 20);
}

#[test]
fn every_key_of_a_sandbox_changes_what_it_is_documented_to_change() {
    let config = good(&super::kind(
        "sandbox:\n  bundle: bundles/python\n  profile: ./seccomp.json\n  network: host\n  memory: 512M\n  \
         cpus: 1.5\n  pids: 256\n  tmpfs: 1M\n  mounts: [{source: ./data, target: /data, mode: rw}, \
         {source: /a, target: /b}]\n  user: 0\n  require: best-effort",
    ));
    let sandbox = config.kinds[0].sandbox.on().expect("it is on");
    assert_eq!(sandbox.root, Root::Bundle("bundles/python".into()));
    assert_eq!(sandbox.profile, Profile::File("./seccomp.json".into()));
    assert_eq!(
        (sandbox.network, sandbox.require, sandbox.user),
        (SandboxNetwork::Host, Require::BestEffort, Some(0))
    );
    assert_eq!(
        (
            sandbox.limits.memory,
            sandbox.limits.cpus,
            sandbox.limits.pids,
            sandbox.tmpfs
        ),
        (Some(512 << 20), Some(1500), 256, 1 << 20)
    );
    let mount = |source: &str, target: &str, writable| Mount {
        source: source.into(),
        target: target.into(),
        writable,
    };
    assert_eq!(
        sandbox.mounts,
        [mount("./data", "/data", true), mount("/a", "/b", false)]
    );
}

#[test]
fn a_sandbox_is_merged_with_the_defaults_key_by_key_but_its_root_as_one() {
    let config = good(
        "defaults:\n  sandbox: {rootfs: host, memory: 1G, pids: 9}\nworkers:\n  a: {cmd: [x], sandbox: {bundle: b, \
         pids: 8}}\n  b: {cmd: [x]}\n  c: {cmd: [x], sandbox: off}\n",
    );
    let [a, b, c] = [0, 1, 2].map(|index| config.kinds[index].sandbox.on().cloned());
    let (a, b) = (a.expect("on"), b.expect("on"));
    assert_eq!(
        (&a.root, a.limits.memory, a.limits.pids),
        (&Root::Bundle("b".into()), Some(1 << 30), 8)
    );
    assert_eq!((&b.root, b.limits.pids), (&Root::Host, 9));
    assert!(c.is_none());
}
