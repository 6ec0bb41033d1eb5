//! Workers that speak HTTP/2 only.

use super::*;

/// The text of one kind, `w`, with these further lines of settings.
fn kind(settings: &str) -> String {
    let settings = settings.replace('\n', "\n    ");
    format!("  w:\n    cmd: [H2WORKER, \"{{{{.Port}}}}\", DIR]\n    {settings}\n")
}

const ALIVE: &str =
    "protocol: h2\nhealth_path: /health\nliveness: {path: /health, interval: 100ms, timeout: 100ms}";

#[test]
fn one_is_asked_by_its_own_protocol_whether_it_is_ready_and_alive() {
    let herd = Herd::start(&kind(ALIVE));
    let asked = || std::fs::read(herd.path("asked")).map_or(0, |asked| asked.len());
    let answer = herd.get("a", "/");
    assert_eq!((answer.status, &*answer.body), (200, &b"ok"[..]), "{answer:?}");
    let before = asked();
    assert!(before >= 2, "for its health, and then the request");
    // More often than it might fail.
    poll("it is asked", || match asked() {
        now if now >= before + 5 => Ok(()),
        now => Err(now.to_string()),
    });
    assert_eq!(herd.running.until("a", "bound")["holders"], 0);
    std::fs::write(herd.path("unwell"), "").unwrap();
    let ended = herd.running.until("a", "ended");
    assert_eq!(ended["reason"], "probe_failed", "{ended}");
    let detail = ended["detail"].as_str().unwrap();
    assert!(
        detail.ends_with("GET /health answered 500 Internal Server Error"),
        "{detail}"
    );

    std::fs::remove_file(herd.path("unwell")).unwrap();
    assert_eq!(herd.get("b", "/").status, 200);
    herd.running.hang("b");
    let ended = herd.running.until("b", "ended");
    let detail = ended["detail"].as_str().unwrap();
    assert!(
        detail.ends_with("GET /health was not answered within 100ms"),
        "{detail}"
    );
}

#[test]
fn one_that_is_unwell_or_declared_as_something_else_never_becomes_ready() {
    let short = "start_timeout: 500ms";
    let herd = Herd::start(&kind(&format!("{ALIVE}\n{short}")));
    std::fs::write(herd.path("unwell"), "").unwrap();
    let problem = herd.get("a", "/").problem(504, "worker_start_timeout");
    assert!(detail(&problem).contains("GET /health answered 500"), "{problem}");

    let herd = Herd::start(&kind(&format!("health_path: /health\n{short}")));
    let problem = herd.get("a", "/").problem(504, "worker_start_timeout");
    assert!(
        detail(&problem).contains("last probe: GET /health: "),
        "{problem}"
    );
    assert!(!herd.path("asked").exists(), "it has understood nothing");
}
