use super::*;

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
            "max_starting: 0",
            "4:19: workers.a.max_starting: is 0, so no worker could ever start; write at least 1, or remove the key",
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
            "liveness: yes",
            "4:15: workers.a.liveness: \"yes\" does not start with /; write e.g. /healthz",
        ),
        (
            "liveness: true",
            "4:15: workers.a.liveness: is the truth value true; write the path to ask for, e.g. /healthz",
        ),
        (
            "liveness: {interval: 5s}",
            "4:15: workers.a.liveness: has no path; write e.g. {path: /healthz}",
        ),
        (
            "liveness: {path: /h, interval: 9ms}",
            "4:36: workers.a.liveness.interval: is too short; write at least 100ms, e.g. 10s",
        ),
        (
            "liveness: {path: /h, failures: 0}",
            "4:36: workers.a.liveness.failures: is out of range; write 1 to 1000, e.g. 3",
        ),
        (
            "liveness: {path: /h, retries: 1}",
            "4:26: workers.a.liveness.retries: is not a key herd knows; write one of path, interval, timeout, failures",
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
            "1:24: network.max_headers: is out of range; write 1 to 1000, e.g. 100",
        ),
        (
            "network: {tls: {cert: /c.pem}}",
            "1:11: network.tls: needs key, a file of PEM; write e.g. {cert: /etc/herd/tls.crt, key: /etc/herd/tls.key}",
        ),
        (
            "network: {tls: {cert: \"\", key: /k.pem}}",
            "1:11: network.tls: needs cert, a file of PEM; write e.g. {cert: /etc/herd/tls.crt, key: /etc/herd/tls.key}",
        ),
        (
            "network: {proxy_protocol: required}",
            "1:11: network.proxy_protocol: needs network.trusted_proxies: whoever else connects could claim to be anybody",
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
            "control: {tcp: \"0.0.0.0:9190\", keys: {a: {env: A}}}",
            "1:16: control.tcp: is not loopback, and keys would cross the network in the clear; write e.g. \
             127.0.0.1:9190, and put something with TLS before it",
        ),
        (
            "control: {tcp: \"127.0.0.1:9190\"}",
            "1:11: control.tcp: needs control.keys: every user of this host can connect to it; `herd key` makes one",
        ),
        (
            "control: {keys: {a: {env: A}}}",
            "1:11: control.keys: are of no use without control.tcp; the socket needs none",
        ),
        (
            "history: {size: 1K}",
            "1:17: history.size: is out of range; write 64K to 1G, e.g. 8M, or 0 to keep none",
        ),
        (
            "traces: {}",
            "1:1: traces: has no endpoint; write e.g. {endpoint: \"http://127.0.0.1:4318/v1/traces\"}",
        ),
        (
            "traces: {endpoint: \"127.0.0.1:4318\"}",
            "1:20: traces.endpoint: \"127.0.0.1:4318\" is not the URL of a receiver; write e.g. \
             http://127.0.0.1:4318/v1/traces",
        ),
        (
            "traces: {endpoint: \"grpc://h:4317/a\"}",
            "1:20: traces.endpoint: \"grpc://h:4317/a\" is not the URL of a receiver; write e.g. \
             http://127.0.0.1:4318/v1/traces",
        ),
        (
            "traces: {endpoint: \"http://h:4318\"}",
            "1:20: traces.endpoint: \"http://h:4318\" has no path; write e.g. http://127.0.0.1:4318/v1/traces",
        ),
        (
            "traces: {endpoint: \"http://a:b@h:4318/v1/traces\"}",
            "1:20: traces.endpoint: has a password in it; write it as a header, e.g. headers: {Authorization: {env: \
             OTLP_AUTHORIZATION}}",
        ),
        (
            "traces: {endpoint: \"http://h/v1/traces\", service_name: \"\"}",
            "1:56: traces.service_name: is empty or longer than 256 bytes; write e.g. herd",
        ),
        (
            "traces: {endpoint: \"http://h/v1/traces\", headers: {\"a b\": {value: x}}}",
            "1:52: traces.headers.a b: is not a header name; write e.g. Authorization",
        ),
        (
            "traces: {endpoint: \"http://h/v1/traces\", headers: {Host: {value: x}}}",
            "1:52: traces.headers.Host: is set by herd already, or twice; remove it",
        ),
        (
            "traces: {endpoint: \"http://h/v1/traces\", headers: {A: {value: x, env: X}}}",
            "1:52: traces.headers.A: has to have exactly one of value, env and file",
        ),
        (
            "traces: {endpoint: \"http://h/v1/traces\", headers: {A: {env: \"\"}}}",
            "1:52: traces.headers.A: names no variable; write e.g. {env: OTLP_AUTHORIZATION}",
        ),
        (
            "access_log: {}",
            "1:1: access_log: has no path; write e.g. {path: /var/log/herd/access.log}, or {path: stdout}",
        ),
        (
            "access_log: {path: \"\"}",
            "1:20: access_log.path: is not a path; write e.g. /var/log/herd/access.log, or stdout",
        ),
        (
            "access_log: {path: /l, sample: 2}",
            "1:32: access_log.sample: is 2; write 0 to 1, e.g. 0.01 for one in a hundred",
        ),
        (
            "access_log: {path: /l, sample: 1/0}",
            "1:32: access_log.sample: is the text \"1/0\"; write a share from 0 to 1, such as 0.01 or 1/100",
        ),
        (
            "access_log: {path: /l, query: keep}",
            "1:31: access_log.query: is the text \"keep\"; write true or false",
        ),
        (
            "access_log: {path: /l, session: none}",
            "1:33: access_log.session: is \"none\"; write plain or hash or omit",
        ),
        (
            "control: {hosts: [\"https://herd.example.com/\"]}",
            "1:19: control.hosts[0]: \"https://herd.example.com/\" is a URL; write the host alone: herd.example.com",
        ),
        (
            "control: {tcp: \"127.0.0.1:9190\", keys: {a: {may: read}}}",
            "1:41: control.keys.a: has to have exactly one of sha256, env and file",
        ),
        (
            "control: {tcp: \"127.0.0.1:9190\", keys: {a: {sha256: herd_secret}}}",
            "1:53: control.keys.a.sha256: is not a SHA-256 in hexadecimal (64 digits); `herd key` prints one",
        ),
        (
            "control: {tcp: \"127.0.0.1:9190\", keys: {a: {env: \"\"}}}",
            "1:50: control.keys.a.env: is not the name of a variable; write e.g. HERD_KEY",
        ),
        (
            "control: {tcp: \"127.0.0.1:9190\", keys: {A b: {env: A}}}",
            "1:41: control.keys.A b: is not a name; write 1 to 63 of a-z 0-9 _ -, a letter or digit first",
        ),
        (
            "control: {tcp: \"127.0.0.1:9190\", keys: {a: {env: A, may: all}}}",
            "1:58: control.keys.a.may: is \"all\"; write metrics or read or control",
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
fn mistakes_in_a_sandbox_are_told_where_they_are() {
    each_setting_is_refused(&[
        (
            "sandbox: true",
            "4:14: workers.a.sandbox: is the truth value true; write host, or settings such as {bundle: DIR}",
        ),
        (
            "sandbox: false",
            "4:14: workers.a.sandbox: is the truth value false; write off",
        ),
        (
            "sandbox: docker",
            "4:14: workers.a.sandbox: is \"docker\"; write off or host or {bundle: DIR}",
        ),
        (
            "sandbox: {memory: 512M}",
            "4:14: workers.a.sandbox: names no root; write rootfs: host for the host's system directories, or bundle: \
             DIR",
        ),
        (
            "sandbox: {bundle: a, rootfs: host}",
            "4:34: workers.a.sandbox.rootfs: is given beside bundle, but a sandbox has one root; keep one of the two",
        ),
        (
            "sandbox: {rootfs: host, memry: 1G}",
            "4:29: workers.a.sandbox.memry: is not a key herd knows; did you mean `memory`?",
        ),
        (
            "sandbox: {rootfs: host, memory: 1M}",
            "4:37: workers.a.sandbox.memory: is too little for any program; write at least 8M",
        ),
        (
            "sandbox: {rootfs: host, cpus: 0}",
            "4:35: workers.a.sandbox.cpus: is 0; write 0.01 to 1024 cores, e.g. 1.5",
        ),
        (
            "sandbox: {rootfs: host, mounts: [{source: /a, target: data}]}",
            "4:59: workers.a.sandbox.mounts[0].target: is not an absolute path without `..`; write e.g. /data",
        ),
        (
            "sandbox: {rootfs: host, mounts: [{source: /a}]}",
            "4:37: workers.a.sandbox.mounts: has one without a target; write e.g. target: /data",
        ),
        (
            "sandbox: {rootfs: host, cpus: 2000.5}",
            "4:35: workers.a.sandbox.cpus: is 2000.5; write 0.01 to 1024 cores, e.g. 1.5",
        ),
        (
            "sandbox: {rootfs: host, mounts: [{source: /a, target: /proc/x}]}",
            "4:59: workers.a.sandbox.mounts[0].target: lies in /proc, which is the sandbox's own; write e.g. /data",
        ),
        (
            "sandbox: {rootfs: host, mounts: [{source: ~/a, target: /a}]}",
            "4:47: workers.a.sandbox.mounts[0].source: begins with ~, which only shells replace; write the whole path",
        ),
        (
            "sandbox: {rootfs: host, user: 70000}",
            "4:35: workers.a.sandbox.user: is not an id inside a sandbox; write 0 to 65533",
        ),
        (
            "sandbox: host\ncwd: app",
            "5:10: workers.a.cwd: is relative, but a sandbox has no directory herd was started in; write an absolute \
             path",
        ),
    ]);
}

#[test]
fn what_is_wrong_with_keys_and_tokens_is_told() {
    let auth = |text: &str| format!("workers: {{a: {{cmd: [x]}}}}\nauth: {text}");
    for (text, expected) in [
        (
            "{}",
            "2:1: auth: has no keys, so nobody could use the data plane; `herd key` makes one, and without auth everyone may",
        ),
        (
            "{keys: {}}",
            "2:1: auth: has no keys, so nobody could use the data plane; `herd key` makes one, and without auth everyone may",
        ),
        (
            "{keys: {a: {}}}",
            "2:15: auth.keys.a: has to have exactly one of sha256, env and file",
        ),
        (
            "{keys: {a: {env: A, also: [{env: B}, {}]}}}",
            "2:44: auth.keys.a.also[1]: has to have exactly one of sha256, env and file",
        ),
        (
            "{keys: {a: {env: A, also: [{env: 1x}]}}}",
            "2:40: auth.keys.a.also[0].env: is not the name of a variable; write e.g. HERD_KEY",
        ),
        (
            "{keys: {-a: {env: A}}}",
            "2:15: auth.keys.-a: is not a name; write 1 to 63 of a-z 0-9 _ -, a letter or digit first",
        ),
        (
            "{keys: {a: {env: A, workers: []}}}",
            "2:36: auth.keys.a.workers: is empty, so the key opens nothing; name kinds, or remove it for all",
        ),
        (
            "{keys: {a: {env: A, workers: [a, b]}}}",
            "2:40: auth.keys.a.workers[1]: there is no kind \"b\" under workers; there is a",
        ),
        (
            "{keys: {a: {env: A, sessions: 0}}}",
            "2:37: auth.keys.a.sessions: is 0, so the key opens nothing; write at least 1",
        ),
        (
            "{keys: {a: {env: A, rate: 100}}}",
            "2:33: auth.keys.a.rate: \"100\" is not a rate; write 1 to 1000000 per s, m or h, e.g. 100/s",
        ),
        (
            "{keys: {a: {env: A, rate: 0/s}}}",
            "2:33: auth.keys.a.rate: \"0/s\" is not a rate; write 1 to 1000000 per s, m or h, e.g. 100/s",
        ),
        (
            "{keys: {a: {env: A, burst: 5}}}",
            "2:27: auth.keys.a.burst: is of no use without rate; write e.g. rate: 100/s",
        ),
        (
            "{keys: {a: {env: A, session_rate: 0/m}}}",
            "2:41: auth.keys.a.session_rate: \"0/m\" is not a rate; write 1 to 1000000 per s, m or h, e.g. 100/s",
        ),
        (
            "{keys: {a: {env: A, rate: 1/s, session_burst: 5}}}",
            "2:38: auth.keys.a.session_burst: is of no use without session_rate; write e.g. session_rate: 100/s",
        ),
        (
            "{keys: {a: {env: A, session_rate: 1/m, session_burst: 0}}}",
            "2:61: auth.keys.a.session_burst: is out of range; write 1 to 1000000, e.g. 200",
        ),
        (
            "{keys: {a: {env: A, rate: 1/s, burst: 0}}}",
            "2:45: auth.keys.a.burst: is out of range; write 1 to 1000000, e.g. 200",
        ),
        (
            "{keys: {a: {env: A}}, tokens: {secrets: [{}]}}",
            "2:48: auth.tokens.secrets[0]: has to have exactly one of env and file",
        ),
        (
            "{keys: {a: {env: A}}, tokens: {secrets: [{env: 1x}]}}",
            "2:48: auth.tokens.secrets[0]: names no variable; write e.g. {env: TOKEN_SECRET}",
        ),
        (
            "{keys: {a: {env: A}}, tokens: {query: sid}}\nsession: {query: sid}",
            "2:45: auth.tokens.query: carries session ids already; give tokens another name",
        ),
    ] {
        assert_eq!(bad(&auth(text)), [expected], "for {text}");
    }
    let same = "c1".repeat(32);
    let told = bad(&auth(&format!(
        "{{keys: {{a: {{sha256: {same}}}, b: {{sha256: {same}}}}}}}"
    )));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].ends_with("auth.keys.b.sha256: is there twice; each principal has keys of its own"),
        "{told:?}"
    );
}

#[test]
fn an_id_is_no_option_of_the_programs() {
    let file = |cmd: &str| format!("workers: {{a: {{cmd: [{cmd}]}}}}\n");
    let option = "begins with {{.SessionID}}, which may begin with - and be an option of its client's choice; write e.g. \
                  --session={{.SessionID}}, or -- as the argument before, if that ends the program's options";
    assert_eq!(
        bad(&file(
            "x, \"{{.SessionID}}\", y, \"{{ .SessionID }}.log\", --, z, \"{{.SessionID}}\""
        )),
        [
            format!("1:24: workers.a.cmd[1]: {option}"),
            format!("1:45: workers.a.cmd[3]: {option}"),
            format!("1:76: workers.a.cmd[6]: {option}"),
        ]
    );
    let program =
        "begins with {{.SessionID}}, so that a client would choose the program; write the program's name";
    assert_eq!(
        bad(&file("\"{{.SessionID}}\"")),
        [format!("1:21: workers.a.cmd[0]: {program}")]
    );
    for harmless in [
        "x, \"--session={{.SessionID}}\"",
        "x, --, \"{{.SessionID}}\"",
        "x, \"{{.Dir}}/{{.SessionID}}\"",
    ] {
        good(&file(harmless));
    }
    good("workers: {a: {cmd: [x], env: {ID: \"{{.SessionID}}\"}}}\n");
}

#[test]
fn what_a_worker_is_told_has_to_tell_principals_apart() {
    let file = |cmd: &str, keys: &str| format!("workers: {{a: {{cmd: [x, --, \"{cmd}\"]}}}}\n{keys}");
    let two = "auth: {keys: {a: {env: A}, b: {env: B}}}";
    let shared = "1:20: workers.a.cmd: {{.SessionID}} is named here without {{.Principal}} and a separator: sessions of two \
                  keys may have the same id, and would share what it names; write e.g. \
                  /data/{{.Principal}}/{{.SessionID}}, with a / or : between the two";
    // a-b and c would be a and b-c, and in two arguments either could stand alone.
    for unclear in [
        "{{.SessionID}}",
        "{{.Principal}}-{{.SessionID}}",
        "{{.Principal}}{{.SessionID}}",
        "{{.SessionID}}~.x{{.Principal}}",
        "/{{.SessionID}}/",
        "{{.Principal}}\", \"/{{.SessionID}}",
    ] {
        assert_eq!(bad(&file(unclear, two)), [shared], "{unclear}");
    }
    for clear in [
        "{{.Principal}}/{{.SessionID}}",
        "{{.SessionID}}:{{.Principal}}",
        "/d/{{.Principal}}-{{.Worker}}/s-{{.SessionID}}.db",
        "{{.Principal}}",
    ] {
        good(&file(clear, two));
    }
    good(&file("{{.SessionID}}", "auth: {keys: {a: {env: A}}}"));
    good(&file("{{.SessionID}}", ""));
    assert_eq!(
        bad(&file("{{.Principal}}", "")),
        [
            "1:20: workers.a.cmd: {{.Principal}} is named here, but without auth there are no principals; remove it, or add \
             auth"
        ]
    );
}
