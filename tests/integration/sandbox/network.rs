//! Everybody's sockets but its own.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use libc::{ECONNREFUSED, ENETUNREACH, ENOENT};
use serde_json::json;

use super::{Outcome, Probed, Settings, bundle, place};
use crate::running::stdout;
use crate::supervised::Mode;

fn tcp(address: impl ToString) -> serde_json::Value {
    json!({"connect": {"tcp": address.to_string()}})
}

#[test]
fn the_hosts_loopback_is_another() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let six = TcpListener::bind("[::1]:0").unwrap();
    for mode in Mode::sandboxed() {
        let probed = Probed::start(mode, &Settings::default());
        for address in [
            probed.herd.data_address().unwrap(),
            listener.local_addr().unwrap().to_string(),
            six.local_addr().unwrap().to_string(),
        ] {
            probed.refuses("a", &tcp(address), &[ECONNREFUSED]);
        }
        // Its own is there.
        assert_eq!(probed.found("a", &tcp("127.0.0.1:8080")), "connected");
    }
}

#[test]
fn there_is_no_network_but_loopback() {
    for mode in Mode::sandboxed() {
        let probed = Probed::start(mode, &Settings::default());
        let devices = probed.text("a", "/proc/self/net/dev");
        let names: Vec<&str> = devices
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, _)| name.trim())
            .filter(|name| !["sit0", "tunl0", "gre0", "ip6tnl0", "ip_vti0"].contains(name))
            .collect();
        assert_eq!(names, ["lo"], "{devices}");
        assert_eq!(probed.text("a", "/proc/self/net/route").lines().count(), 1);
        // Documentation addresses (RFC 5737, RFC 3849), the clouds' metadata, and a name server.
        for address in [
            "192.0.2.1:80",
            "[2001:db8::1]:80",
            "169.254.169.254:80",
            "9.9.9.9:53",
        ] {
            probed.refuses("a", &tcp(address), &[ENETUNREACH]);
        }
        assert_eq!(probed.text("a", "/etc/resolv.conf"), "");
    }
}

/// containerd's shim once listened on such a socket of the host (CVE-2020-15257).
#[test]
fn abstract_sockets_of_the_host_are_not_there() {
    let name = format!("herd-test-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    for mode in Mode::sandboxed() {
        let probed = Probed::start(mode, &Settings::default());
        probed.refuses("a", &json!({"connect": {"abstract": name}}), &[ECONNREFUSED]);
        let listed = probed.text("a", "/proc/self/net/unix");
        assert!(!listed.contains(&name), "{listed}");
    }
}

#[test]
fn herds_control_socket_is_not_there() {
    for mode in Mode::sandboxed() {
        let probed = Probed::start(mode, &Settings::default());
        let socket = probed.herd.socket();
        assert!(socket.exists());
        probed.refuses("a", &json!({"connect": {"unix": socket}}), &[ENOENT]);
    }
}

#[test]
fn another_sessions_listener_is_not_there() {
    for mode in Mode::sandboxed() {
        // Who listens on a socket leaves the port free, so whoever answers there is another.
        let settings = Settings {
            place: "{{.Socket}}",
            kind: "  port:\n    cmd: [/probe, \"{{.Port}}\"]\n    env: { HERD_TEST_TAG: DIR }\n    sandbox: \
                   { rootfs: host, mounts: [{ source: DIR/prober, target: /probe }] }",
            ..Settings::default()
        };
        let probed = Probed::start(mode, &settings);
        let headers = "x-herd-worker: port\r\nconnection: close\r\n";
        let body = json!({"descriptors": {}}).to_string();
        let mut answer = String::new();
        let mut other = probed.client.send("other", "POST /", headers, &body).unwrap();
        std::io::Read::read_to_string(&mut other, &mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let own = json!({"connect": {"unix": "/run/herd/s"}});
        let headers = "x-herd-worker: prober\r\nconnection: close\r\n";
        for (probe, expected) in [
            (tcp("127.0.0.1:8080"), json!({"errno": ECONNREFUSED})),
            (own, json!({"ok": "connected"})),
        ] {
            let mut answer = String::new();
            let mut a = probed
                .client
                .send("a", "POST /", headers, &probe.to_string())
                .unwrap();
            std::io::Read::read_to_string(&mut a, &mut answer).unwrap();
            assert!(
                answer.ends_with(&expected.to_string()),
                "{mode:?}: {probe}: {answer}"
            );
        }
    }
}

/// herd connects to where the worker says that it listens; that must be no way to have herd connect to anything
/// else in the worker's place.
#[test]
fn a_link_in_place_of_the_workers_socket_leads_herd_nowhere() {
    for mode in Mode::sandboxed() {
        for to in [
            "CONTROL",
            "../../tmp/elsewhere",
            "/proc/1/root/run/herd/s",
            "/run/herd/s",
        ] {
            let settings = Settings {
                place: "{{.Socket}}",
                ..Settings::default()
            };
            let probed = Probed::start(mode, &settings);
            let to = match to {
                "CONTROL" => probed.herd.socket().display().to_string(),
                to => to.to_owned(),
            };
            probed.found("a", &json!({"elsewhere": {"to": to}}));
            match probed.ask("a", &json!({"descriptors": {}})) {
                Outcome::NotAsked(answer) => {
                    assert!(
                        answer.contains("worker_connection_lost"),
                        "{mode:?}: {to}: {answer}"
                    );
                }
                other => panic!("{mode:?}: {to}: {other:?}"),
            }
            // Nothing of it is herd's trouble.
            probed.lives("b");
            assert!(stdout(&probed.herd.herd(&["ps"])).contains("bound"));
        }
    }
}

#[test]
fn a_bundle_cannot_lead_herd_to_another_socket_either() {
    for mode in Mode::sandboxed() {
        let dir = place();
        bundle(dir.path(), "bundle", |root| {
            std::fs::create_dir_all(root.join("run")).unwrap();
            std::os::unix::fs::symlink("/../../../tmp", root.join("run/herd")).unwrap();
        });
        let settings = Settings {
            root: "bundle: DIR/bundle",
            place: "{{.Socket}}",
            ..Settings::default()
        };
        let probed = Probed::start_in(dir, mode, &settings);
        // The sandbox's own directory has taken the link's place.
        probed.lives("a");
        assert_eq!(probed.names("a", "/run/herd"), ["s"]);
        assert!(probed.names("a", "/tmp").is_empty());
    }
}
