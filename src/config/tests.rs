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
