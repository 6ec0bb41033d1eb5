use super::*;

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
         idle_timeout, max_connections, max_header_size, max_headers, trusted_proxies, dead_peer_timeout, websocket_origins, \
         tls, proxy_protocol",
        "5:8: defaults.ttl: has no unit; write 900s for seconds, or 900ms",
        "7:3: workers.Bad Name: is not a name for workers; write at most 63 of a-z 0-9 _ -, a letter or digit \
         first, e.g. browser",
        "10:10: workers.a.cmd: is empty; write e.g. [\"my-server\", \"--port\", \"{{.Port}}\"]",
        "11:10: workers.a.min: is 9, more than max 3; write at most 3, or raise max",
        "14:16: workers.b.cmd[1]: {{.Prot}} is not a template herd knows; use one of {{.Port}} {{.Socket}} \
         {{.SessionID}} {{.Principal}} {{.Worker}} {{.Dir}}",
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

#[test]
fn a_mistake_in_defaults_is_reported_once_and_there() {
    let text = "defaults:\n  min: 20\n  env: {A: \"{{.Nope}}\"}\n  cmd: [y]\nworkers:\n  a: {cmd: [x]}\n  b: {cmd: [x]}\n";
    assert_eq!(
        bad(text),
        [
            "2:8: defaults.min: is 20, more than the default max 10; write at most 10, or raise max",
            "3:12: defaults.env.A: {{.Nope}} is not a template herd knows; use one of {{.Port}} {{.Socket}} \
             {{.SessionID}} {{.Principal}} {{.Worker}} {{.Dir}}",
            "4:3: defaults.cmd: cannot have a default; write cmd in each kind under workers",
        ]
    );
}

#[test]
fn a_kind_that_is_not_there_is_told_beside_the_mistakes_of_those_that_are() {
    let text =
        "auth: {keys: {k: {env: K, workers: [zz, a, b]}}}\nworkers:\n  a: {cmd: [x], bogus: 1}\n  b: 5\n";
    let told = bad(text);
    assert_eq!(told.len(), 3, "{told:#?}");
    assert_eq!(
        told[0],
        "1:37: auth.keys.k.workers[0]: there is no kind \"zz\" under workers; there is a"
    );
    assert!(told[1].starts_with("3:17: workers.a.bogus: "), "{told:#?}");
    assert!(told[2].starts_with("4:6: workers.b: "), "{told:#?}");
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
            "3:7: workers.b.<<: is not a key herd knows; write one of cmd, env, env_passthrough, cwd, min, max, max_starting, ttl, \
             max_lifetime, reuse, health_path, liveness, start_timeout, stop_timeout, disconnect_grace, on_disconnect, bind, \
             on_crash, queue, host_header, protocol, routes, sandbox, log_buffer",
        ),
    ]);
    let unclosed = bad("workers:\n  a: {cmd: [x\n");
    assert_eq!(unclosed.len(), 1);
    assert!(unclosed[0].contains("this is not YAML: "), "{unclosed:?}");
}

#[test]
fn a_worker_for_one_known_session_cannot_be_warm_or_reused() {
    let text = "workers:\n  a:\n    cmd: [x, \"--id={{.SessionID}}\"]\n    min: 1\n    reuse: true\n";
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

#[test]
fn a_lone_carriage_return_ends_a_line_as_it_does_for_yaml() {
    let problems = parse("\rworkers: 5\r", "herd.yaml")
        .map(|_| ())
        .expect_err("should be refused");
    assert_eq!(
        (problems.list[0].line, problems.list[0].source.as_str()),
        (2, "workers: 5")
    );
}
