//! What a user of herd.yaml meets: values, defaults, and the text of every mistake.

use std::time::Duration;

use super::*;
use crate::core::KindId;

const ISSUE: &str = r#"workers:
  browser:
    cmd: ["npx", "playwright", "run-server", "--port", "{{.Port}}"]
    min: 1
    max: 5
    ttl: "15m"
    reuse: false
    health_path: "/"
"#;

fn good(text: &str) -> Config {
    parse(text, "herd.yaml").unwrap_or_else(|problems| panic!("should be valid:\n{problems}"))
}

/// The headlines of every problem, without source lines.
fn bad(text: &str) -> Vec<String> {
    let problems = parse(text, "herd.yaml")
        .map(|_| ())
        .expect_err("should be refused");
    let headline = |p: &Problem| {
        let separator = if p.path.is_empty() { "" } else { ": " };
        format!("{}:{}: {}{separator}{}", p.line, p.column, p.path, p.message)
    };
    problems.list.iter().map(headline).collect()
}

#[test]
fn the_documented_example_gives_exactly_the_documented_values() {
    let config = good(ISSUE);
    assert_eq!(config.network.data_bind.to_string(), "127.0.0.1:8080");
    assert_eq!(config.kinds.len(), 1);
    assert_eq!(config.kind_named("browser"), Some(KindId(0)));
    let kind = config.kind(KindId(0));
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
fn a_typing_mistake_is_shown_with_its_line_and_a_caret() {
    let text = ISSUE.replace("max: 5", "maxx: 5");
    let problems = parse(&text, "herd.yaml")
        .map(|_| ())
        .expect_err("should be refused");
    assert_eq!(
        problems.to_string(),
        "herd.yaml:5:5: workers.browser.maxx: is not a key herd knows; did you mean `max`?\n \
         5 |     maxx: 5\n   |     ^"
    );
}

#[test]
fn many_mistakes_are_all_reported_in_one_run() {
    let text = r#"network:
  data_bind: localhost:80
  bogus_setting: 1
defaults:
  ttl: 900
workers:
  Bad Name:
    cmd: ["x"]
  a:
    cmd: []
    min: 9
    max: 3
  b:
    cmd: ["x", "{{.Prot}}", "{{.Dir"]
    max: five
    env:
      2X: y
    routes:
      - {host: "a b"}
      - {path_prefix: x}
      - {}
  c:
    max: 0
"#;
    let expected = [
        "2:14: network.data_bind: \"localhost:80\" names a host; write 127.0.0.1:80 or [::1]:80",
        "3:3: network.bogus_setting: is not a key herd knows; write one of data_bind, header_timeout, \
         idle_timeout, max_connections, max_header_size, max_headers, trusted_proxies, dead_peer_timeout",
        "5:8: defaults.ttl: has no unit; write 900s for seconds, or 900ms",
        "7:3: workers.Bad Name: is not a name for workers; write at most 63 of a-z 0-9 _ -, a letter or digit \
         first, e.g. browser",
        "10:10: workers.a.cmd: is empty; write e.g. [\"my-server\", \"--port\", \"{{.Port}}\"]",
        "11:10: workers.a.min: is 9, more than max 3; write at most 3, or raise max",
        "14:16: workers.b.cmd[1]: {{.Prot}} is not a template herd knows; use one of {{.Port}} {{.Socket}} \
         {{.SessionID}} {{.Worker}} {{.Dir}}",
        "14:29: workers.b.cmd[2]: the {{ at byte 0 is never closed; write e.g. {{.Port}}",
        "15:10: workers.b.max: is the text \"five\"; write a whole number such as 5",
        "17:7: workers.b.env.2X: is not a variable name; write letters, digits, _ . - and no digit first, e.g. \
         LOG_LEVEL",
        "19:16: workers.b.routes[0].host: \"a b\" is not a host name; write e.g. app.example.com (no wildcards)",
        "20:23: workers.b.routes[1].path_prefix: \"x\" does not start with /; write e.g. /browser",
        "21:9: workers.b.routes[2]: matches nothing; write e.g. {path_prefix: /browser} or {host: app.example.com}",
        "22:3: workers.c: has no cmd; write cmd: with program and arguments, e.g. [\"my-server\", \"--port\", \
         \"{{.Port}}\"]",
        "23:10: workers.c.max: is 0, so no worker could ever start; write at least 1",
    ];
    assert_eq!(bad(text), expected);
}

/// A kind `a` with these lines, each indented by four; they start on line 4.
fn kind(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("workers:\n  a:\n    cmd: [x]\n{lines}")
}

/// Each text with the one headline it gets.
fn each_is_refused(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(bad(text), [*expected], "for\n{text}");
    }
}

/// Each setting of a kind with the one headline it gets.
fn each_setting_is_refused(cases: &[(&str, &str)]) {
    for (lines, expected) in cases {
        assert_eq!(bad(&kind(lines)), [*expected], "for\n{lines}");
    }
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
        (10_000, 64 << 10, 128)
    );
    assert_eq!(network.trusted_proxies, []);
    assert_eq!(network.dead_peer_timeout, Duration::from_secs(30));
    assert_eq!(config.session.headers, ["x-session-id"]);
    assert_eq!((&config.session.query, &config.session.cookie), (&None, &None));
    assert_eq!(config.session.lost_status, http::StatusCode::GONE);
    assert_eq!(config.session.lost_for, Duration::from_secs(600));
    assert_eq!((&config.control_socket, &config.state_dir), (&None, &None));
    assert_eq!(config.lifetime, Lifetime::BestEffort);
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
    let kind = config.kind(KindId(0));
    assert_eq!((kind.name.as_str(), kind.min, kind.max), ("a", 0, 10));
    assert_eq!(
        (kind.ttl, kind.max_lifetime),
        (Some(Duration::from_secs(900)), None)
    );
    assert_eq!(
        (kind.reuse, kind.upstream, kind.per_session),
        (Reuse::Never, Upstream::Port, false)
    );
    assert_eq!(kind.health_path, None);
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
session: {header: X-Id, aliases: [Mcp-Session-Id], query: sid, cookie: sid_c, lost_status: 404, lost_for: 6s}
control: {socket: /run/c.sock}
state_dir: /run/s
lifetime: strict
drain_timeout: 7s
workers:
  z:
    cmd: [x, "{{.Socket}}", 8080, true, 1.10]
    env: {SID: "{{.SessionID}}", PORT_BASE: 0x10, EMPTY: ""}
    env_passthrough: [AWS_*, DISPLAY]
    cwd: "{{.Dir}}"
    max: 2
    ttl: never
    max_lifetime: 1h30m
    health_path: /healthz?full=1
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
    assert_eq!(config.state_dir.as_deref(), Some("/run/s".as_ref()));
    assert_eq!(
        (config.lifetime, config.drain_timeout),
        (Lifetime::Strict, Duration::from_secs(7))
    );

    let names: Vec<&str> = config.kinds.iter().map(|kind| kind.name.as_str()).collect();
    assert_eq!(names, ["z", "a"], "kinds keep the order of the file");
    let kind = config.kind(KindId(0));
    let values = Values {
        socket: Some("/s".into()),
        session_id: Some("id".into()),
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
            ("SID", "id".into())
        ]
    );
    assert_eq!(kind.env_passthrough, ["AWS_*", "DISPLAY"]);
    assert_eq!(kind.cwd.as_ref().map(render).as_deref(), Some("/d"));
    assert_eq!(
        (kind.upstream, kind.per_session, kind.max),
        (Upstream::Socket, true, 2)
    );
    assert_eq!(
        (kind.ttl, kind.max_lifetime),
        (None, Some(Duration::from_secs(5400)))
    );
    assert_eq!(kind.health_path.as_deref(), Some("/healthz?full=1"));
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
    let second = config.kind(KindId(1));
    assert_eq!((second.min, second.reuse), (1, Reuse::AfterSession));
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
    let (own, plain) = (config.kind(KindId(0)), config.kind(KindId(1)));
    assert_eq!((own.ttl, own.max, own.queue.max), (None, 3, 7));
    assert_eq!(own.queue.timeout, Duration::from_secs(1));
    assert_eq!(render(own), ["A=1", "B=mine"]);
    assert_eq!((plain.ttl, plain.queue.max), (Some(Duration::from_secs(300)), 7));
    assert_eq!(render(plain), ["A=1", "B=2"]);
}

#[test]
fn a_mistake_in_defaults_is_reported_once_and_there() {
    let text = "defaults:\n  min: 20\n  env: {A: \"{{.Nope}}\"}\n  cmd: [y]\nworkers:\n  a: {cmd: [x]}\n  b: {cmd: [x]}\n";
    assert_eq!(
        bad(text),
        [
            "2:8: defaults.min: is 20, more than the default max 10; write at most 10, or raise max",
            "3:12: defaults.env.A: {{.Nope}} is not a template herd knows; use one of {{.Port}} {{.Socket}} \
             {{.SessionID}} {{.Worker}} {{.Dir}}",
            "4:3: defaults.cmd: cannot have a default; write cmd in each kind under workers",
        ]
    );
}

#[test]
fn files_without_workers_are_told_what_to_write() {
    let example = "write e.g. workers: {app: {cmd: [\"my-server\", \"--port\", \"{{.Port}}\"]}}";
    for empty in ["", "\n\n", "# nothing\n", "---\n", "~"] {
        assert_eq!(
            bad(empty),
            [format!("1:1: the file is empty; {example}")],
            "for {empty:?}"
        );
    }
    assert_eq!(
        bad("network: {}\n"),
        [format!("1:1: no workers are configured; {example}")]
    );
    assert_eq!(
        bad("workers: {}\n"),
        [format!("1:10: workers: holds no kind of worker; {example}")]
    );
    each_is_refused(&[
        (
            "workers:\n",
            "1:1: workers: is empty; write names with their settings, e.g. browser: {cmd: [...]}",
        ),
        (
            "- a\n",
            "1:1: is a list; write keys and values, starting with workers:",
        ),
        (
            "hello",
            "1:1: is the text \"hello\"; write keys and values, starting with workers:",
        ),
    ]);
}

#[test]
fn yaml_itself_is_checked_with_its_place() {
    each_is_refused(&[
        (
            "workers:\n  a:\n    cmd: [x]\n    max: 1\n    max: 2\n",
            "5:5: workers.a.max: is written twice (first on line 4); keep one of the two",
        ),
        (
            "workers:\n  a: {cmd: [x]}\n---\nworkers: {}\n",
            "3:1: a second document starts here; keep one, and remove this `---`",
        ),
        (
            "workers:\n  a:\n\tcmd: [x]\n",
            "3:1: a tab indents this line, which YAML does not allow; use spaces",
        ),
        (
            "workers:\n  a: {cmd: [!shell x]}\n",
            "2:13: workers.a.cmd[0]: the tag !shell means nothing here; remove it",
        ),
        (
            "workers:\n  a: {cmd: [x], [y]: z}\n",
            "2:17: workers.a: a key is text, not a list or a map; write `name: value`",
        ),
        (
            "workers:\n  a: &a {cmd: [x]}\n  b: {<<: *a, cmd: [y]}\n",
            "3:7: workers.b.<<: is not a key herd knows; write one of cmd, env, env_passthrough, cwd, min, max, ttl, \
             max_lifetime, reuse, health_path, start_timeout, stop_timeout, disconnect_grace, on_disconnect, bind, \
             on_crash, queue, host_header, protocol, routes, log_buffer",
        ),
    ]);
    let unclosed = bad("workers:\n  a: {cmd: [x\n");
    assert_eq!(unclosed.len(), 1);
    assert!(unclosed[0].contains("this is not YAML: "), "{unclosed:?}");
}

#[test]
fn aliases_work_within_a_budget() {
    let config = good("workers:\n  a: &a {cmd: [x], max: 3}\n  b: *a\n");
    assert_eq!(config.kind(KindId(1)).max, 3);

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
fn wrong_values_are_told_what_to_write_instead() {
    each_setting_is_refused(&[
        (
            "ttl: 15",
            "4:10: workers.a.ttl: has no unit; write 15s for seconds, or 15ms",
        ),
        (
            "ttl: \"15\"",
            "4:10: workers.a.ttl: has no unit; write 15s for seconds, or 15ms",
        ),
        (
            "ttl: soon",
            "4:10: workers.a.ttl: \"soon\" is not a duration; write a duration with its unit, such as 250ms, 30s, 15m \
             or 1h30m",
        ),
        (
            "ttl: -5",
            "4:10: workers.a.ttl: is the number -5; write a duration with its unit, such as 30s, 15m or 1h30m, or never",
        ),
        (
            "ttl: 1.5",
            "4:10: workers.a.ttl: is the number 1.5; write a duration with its unit, such as 30s, 15m or 1h30m, or never",
        ),
        (
            "ttl: 99999d",
            "4:10: workers.a.ttl: \"99999d\" is longer than ten years; write at most 3650d",
        ),
        (
            "ttl:",
            "4:5: workers.a.ttl: is empty; write a duration with its unit, such as 30s, 15m or 1h30m, or never",
        ),
        (
            "max_lifetime: 0s",
            "4:19: workers.a.max_lifetime: cannot be zero; write e.g. 8h, or never",
        ),
        (
            "start_timeout: 0s",
            "4:20: workers.a.start_timeout: cannot be zero; write e.g. 30s",
        ),
        (
            "min: 1.5",
            "4:10: workers.a.min: is the number 1.5; write a whole number such as 5",
        ),
        (
            "min: -1",
            "4:10: workers.a.min: is the number -1; write a whole number such as 5",
        ),
        (
            "min: \"1\"",
            "4:10: workers.a.min: is the text \"1\"; write a whole number such as 5",
        ),
        (
            "max: 2000000",
            "4:10: workers.a.max: is 2000000; write at most 1000000",
        ),
        (
            "max: 0",
            "4:10: workers.a.max: is 0, so no worker could ever start; write at least 1",
        ),
        (
            "min: 11",
            "4:10: workers.a.min: is 11, more than the default max 10; write at most 10, or raise max",
        ),
        (
            "reuse: yes",
            "4:12: workers.a.reuse: is the text \"yes\"; write true or false",
        ),
        (
            "reuse: 0",
            "4:12: workers.a.reuse: is the number 0; write true or false",
        ),
        (
            "on_disconnect: stay",
            "4:20: workers.a.on_disconnect: is \"stay\"; write kill or ttl",
        ),
        (
            "on_crash: [lost]",
            "4:15: workers.a.on_crash: is a list; write lost or respawn",
        ),
        (
            "bind: true",
            "4:11: workers.a.bind: is true; write session or connection",
        ),
        (
            "protocol: http2",
            "4:15: workers.a.protocol: is \"http2\"; write http1 or h2",
        ),
        (
            "health_path: healthz",
            "4:18: workers.a.health_path: \"healthz\" does not start with /; write e.g. /healthz",
        ),
        (
            "health_path: /a b",
            "4:18: workers.a.health_path: \"/a b\" is not a request path; percent-encode special characters",
        ),
        (
            "log_buffer: 1KB",
            "4:17: workers.a.log_buffer: is the text \"1KB\"; write a size such as 64K, 1M or a number of bytes",
        ),
        (
            "log_buffer: 100",
            "4:17: workers.a.log_buffer: is out of range; write 4K to 1G, e.g. 256K",
        ),
        (
            "cwd: \"\"",
            "4:10: workers.a.cwd: is empty; write a directory, or remove the key",
        ),
        (
            "env: {A: }",
            "4:11: workers.a.env.A: is empty; write text (for an empty value write \"\")",
        ),
        (
            "env: [A=1]",
            "4:10: workers.a.env: is a list; write keys and values",
        ),
        (
            "env: {A: \"a\\0b\"}",
            "4:14: workers.a.env.A: contains a NUL byte, which no program can be given; remove it",
        ),
        (
            "env: {\"A=B\": c}",
            "4:11: workers.a.env.A=B: is not a variable name; write letters, digits, _ . - and no digit first, e.g. \
             LOG_LEVEL",
        ),
        (
            "env_passthrough: [A=1]",
            "4:23: workers.a.env_passthrough[0]: \"A=1\" is not a variable name or pattern; values belong under env; \
             write A",
        ),
        (
            "env_passthrough: A",
            "4:22: workers.a.env_passthrough: is the text \"A\"; write a list such as [\"a\", \"b\"]",
        ),
        (
            "queue: 5",
            "4:12: workers.a.queue: is the number 5; write keys and values, e.g. {max: 100, timeout: 30s}",
        ),
        (
            "queue: {size: 5}",
            "4:13: workers.a.queue.size: is not a key herd knows; write one of max, timeout",
        ),
        (
            "Health-Path: /",
            "4:5: workers.a.Health-Path: is not a key herd knows; did you mean `health_path`?",
        ),
        (
            "routes: []",
            "4:13: workers.a.routes: is empty; remove it, or write e.g. {path_prefix: /browser} or \
             {host: app.example.com}",
        ),
        (
            "routes: [{host: \"http://a.b/c\"}]",
            "4:21: workers.a.routes[0].host: \"http://a.b/c\" is a URL; write the host alone: a.b",
        ),
        (
            "routes: [{host: \"a.b:80\"}]",
            "4:21: workers.a.routes[0].host: \"a.b:80\" has a port; write the host alone: a.b",
        ),
        (
            "routes: [{path_prefix: \"/a/*\"}]",
            "4:28: workers.a.routes[0].path_prefix: \"/a/*\" is not a plain path; write whole segments, e.g. /browser",
        ),
    ]);
}

#[test]
fn settings_outside_workers_are_checked_as_strictly() {
    let cases = [
        (
            "network: {data_bind: 8080}",
            "1:22: network.data_bind: is only a port; write 127.0.0.1:8080",
        ),
        (
            "network: {data_bind: \":80\"}",
            "1:22: network.data_bind: \":80\" names no address; write 0.0.0.0:80 for every interface",
        ),
        (
            "network: {data_bind: here}",
            "1:22: network.data_bind: \"here\" is not an address; write IP:PORT, e.g. 127.0.0.1:8080",
        ),
        (
            "network: {max_connections: 0}",
            "1:28: network.max_connections: is out of range; write 1 to 1000000, e.g. 10000",
        ),
        (
            "network: {max_header_size: 1}",
            "1:28: network.max_header_size: is out of range; write 8K to 1M, e.g. 64K",
        ),
        (
            "network: {max_headers: 0}",
            "1:24: network.max_headers: is out of range; write 1 to 1000, e.g. 128",
        ),
        (
            "network: {trusted_proxies: [10.0.0.0/8, office]}",
            "1:41: network.trusted_proxies[1]: \"office\" is not an address range; write e.g. 10.0.0.0/8 or 192.168.1.7",
        ),
        (
            "session: {header: \"X Y\"}",
            "1:19: session.header: \"X Y\" is not a header name; write e.g. X-Session-ID",
        ),
        (
            "session: {header: Connection}",
            "1:19: session.header: Connection already has a meaning in HTTP or herd; write e.g. X-Session-ID",
        ),
        (
            "session: {header: X-Herd-Id}",
            "1:19: session.header: X-Herd-Id already has a meaning in HTTP or herd; write e.g. X-Session-ID",
        ),
        (
            "session: {aliases: [X-A, x-session-id]}",
            "1:26: session.aliases[1]: x-session-id is already looked for; remove it",
        ),
        (
            "session: {query: \"a b\"}",
            "1:18: session.query: \"a b\" is not a query parameter herd can look for; write A-Z a-z 0-9 . _ ~ -, e.g. \
             session",
        ),
        (
            "session: {cookie: \"a;b\"}",
            "1:19: session.cookie: \"a;b\" is not a cookie name; write e.g. session_id",
        ),
        (
            "session: {lost_status: 500}",
            "1:24: session.lost_status: is the number 500; write 410 or 404",
        ),
        (
            "control: {socket: \"\"}",
            "1:19: control.socket: is not a path; write e.g. /run/herd/control.sock",
        ),
        (
            "lifetime: forever",
            "1:11: lifetime: is \"forever\"; write strict or best-effort",
        ),
        (
            "drain_timeout: 5",
            "1:16: drain_timeout: has no unit; write 5s for seconds, or 5ms",
        ),
        (
            "worker: {}",
            "1:1: worker: is not a key herd knows; did you mean `workers`?",
        ),
    ];
    for (line, expected) in cases {
        assert_eq!(
            bad(&format!("{line}\nworkers: {{a: {{cmd: [x]}}}}\n")),
            [expected],
            "for {line}"
        );
    }
    let long = format!("state_dir: /{}\nworkers: {{a: {{cmd: [x]}}}}\n", "d".repeat(72));
    assert_eq!(
        bad(&long),
        [
            "1:12: state_dir: is 73 bytes long; write at most 72, the kernel's limit for sockets, e.g. /run/herd"
        ]
    );
}

#[test]
fn a_worker_for_one_known_session_cannot_be_warm_or_reused() {
    let text = "workers:\n  a:\n    cmd: [x, \"{{.SessionID}}\"]\n    min: 1\n    reuse: true\n";
    assert_eq!(
        bad(text),
        [
            "4:10: workers.a.min: a kind that names {{.SessionID}} cannot run warm, because its workers are started \
             for one known session; write 0",
            "5:12: workers.a.reuse: a kind that names {{.SessionID}} cannot serve a second session; write false",
        ]
    );
}

#[test]
fn a_worker_is_reached_over_a_port_or_a_socket_but_not_both() {
    let text = "workers:\n  a:\n    cmd: [x, \"{{.Port}}\"]\n    env: {S: \"{{.Socket}}\"}\n";
    assert_eq!(
        bad(text),
        [
            "4:10: workers.a.env: {{.Socket}} is named here and {{.Port}} in cmd, but a worker is reached over one of \
             them; keep one"
        ]
    );
}

#[test]
fn cmd_names_a_program() {
    let example = "e.g. [\"my-server\", \"--port\", \"{{.Port}}\"]";
    let cmd = |value: &str| bad(&format!("workers:\n  a:\n    cmd: {value}\n"));
    assert_eq!(
        cmd("[]"),
        [format!("3:10: workers.a.cmd: is empty; write {example}")]
    );
    assert_eq!(
        cmd("[\"\"]"),
        [format!("3:10: workers.a.cmd: names no program; write {example}")]
    );
    assert_eq!(
        cmd("npx serve"),
        ["3:10: workers.a.cmd: is the text \"npx serve\"; write a list such as [\"a\", \"b\"]"]
    );
    assert_eq!(
        cmd("[[x]]"),
        ["3:11: workers.a.cmd[0]: is a list; write text (for an empty value write \"\")"],
        "what is left of a broken cmd is not judged"
    );
}

#[test]
fn a_route_leads_to_one_kind() {
    let text = "workers:\n  a:\n    cmd: [x]\n    routes:\n      - {host: A.example}\n  b:\n    cmd: [x]\n    \
                routes:\n      - {path_prefix: /b}\n      - {host: a.example}\n";
    assert_eq!(
        bad(text),
        ["10:9: workers.b.routes[1]: the same route already leads to a (line 5); remove one of the two"]
    );
}

#[test]
fn removed_elements_do_not_shift_the_places_of_later_ones() {
    let text = kind("routes:\n  - {host: \"a b\"}\n  - {host: \"c d\"}\n  - {}");
    let places: Vec<String> = bad(&text)
        .iter()
        .map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        places,
        [
            "5:16 workers.a.routes[0].host",
            "6:16 workers.a.routes[1].host",
            "7:9 workers.a.routes[2]"
        ]
    );
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
    let text = format!(
        "\u{feff}{}",
        ISSUE.replace('\n', "\r\n").replace("max: 5", "max: x")
    );
    assert_eq!(
        bad(&text),
        ["5:10: workers.browser.max: is the text \"x\"; write a whole number such as 5"]
    );
}
