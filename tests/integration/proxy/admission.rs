//! Workers that may use more memory than this host has left.

use super::*;
use crate::client::Client as Control;

/// MiB that are there, and that others use now.
fn host() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let field = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
    };
    let total = field("MemTotal:");
    (total, total - field("MemAvailable:"))
}

fn kind(memory: u64, settings: &str) -> String {
    format!(
        "  w:\n    cmd: [python3, /app/worker.py, \"{{{{.Port}}}}\"]\n    cwd: /app\n    {settings}\n    sandbox: {{rootfs: \
         host, memory: {memory}M, mounts: [{{source: DIR, target: /app}}]}}\n"
    )
}

#[test]
fn a_worker_that_could_never_fit_is_refused_at_once_and_warned_of() {
    let (total, _) = host();
    let herd = Herd::start(&kind(2 * total, ""));
    let problem = herd.get("a", "/").problem(502, "worker_start_failed");
    assert!(detail(&problem).ends_with("it would never fit"), "{problem}");
    let warning = "so none will start; lower it";
    herd.running.logged(warning);
    let config = herd.path("herd.yaml");
    let check = herd
        .running
        .herd(&["check", "--config", config.to_str().unwrap()]);
    assert!(check.status.success(), "{check:?}");
    assert!(crate::running::stdout(&check).contains(warning), "{check:?}");
}

#[test]
fn a_worker_that_does_not_fit_now_waits_and_a_reload_lets_it_in() {
    let (total, used) = host();
    // Half of what others use would be for workers, so there is nothing left now.
    let reserve = format!("admission: {{reserve: {}M}}", total - used / 2);
    let herd = Herd::start_with(&reserve, &kind(used / 4, "queue: {timeout: 60s}"));
    let problem = herd
        .client()
        .get_with("b", "/", "x-herd-wait: 0\r\n")
        .problem(503, "at_capacity");
    assert_eq!(
        detail(&problem),
        "this host has less memory left than a worker may use, and this request may not wait"
    );
    let mut client = herd.client();
    client.send(&get("a", "/", ""));
    herd.running.until("a", "queued");
    let control = Control::of(&herd.running).unwrap();
    let pressure = control.look("/v1/pressure").unwrap();
    assert_eq!(pressure["workers"][0]["waits_for"], "memory", "{pressure}");
    assert_eq!(pressure["workers"][0]["available"], 0, "{pressure}");
    assert_eq!(pressure["admission"]["memory_left_bytes"], 0, "{pressure}");
    let metrics = control.text("/metrics").unwrap();
    let line = "herd_queue_for_want{worker=\"w\",of=\"memory\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    herd.reload(&reserve, "admission: {memory: off}");
    client.answer().good();
}

#[test]
fn a_worker_that_fits_starts() {
    let herd = Herd::start(&kind(64, ""));
    herd.get("a", "/").good();
    let control = Control::of(&herd.running).unwrap();
    let admission = control.look("/v1/pressure").unwrap()["admission"].clone();
    assert!(
        admission["memory_left_bytes"].as_u64().unwrap() > 0,
        "{admission}"
    );
}

/// A herd, and clients that wait for a worker which may use nearly all that the host has, and so never fits now.
fn crowded(ids: &[&str]) -> (Herd, u64, Vec<Client>) {
    let memory = host().0 - 64;
    let herd = Herd::start_with("admission: {reserve: 0}", &kind(memory, "queue: {timeout: 60s}"));
    let wait = |id: &&str| {
        let mut client = herd.client();
        client.send(&get(id, "/", ""));
        herd.running.until(id, "queued");
        client
    };
    let waiting = ids.iter().map(wait).collect();
    (herd, memory, waiting)
}

#[test]
fn who_waits_for_memory_is_let_in_when_a_reload_has_workers_need_less() {
    let (herd, memory, mut waiting) = crowded(&["a", "b"]);
    let said = herd.reload(&format!("memory: {memory}M"), "memory: 64M");
    assert_eq!(said, "configuration 2 is in force: w renewed\n");
    for client in &mut waiting {
        client.answer().good();
    }
}

#[test]
fn who_waits_for_memory_is_refused_when_after_a_reload_there_can_never_be_enough() {
    let (herd, memory, mut waiting) = crowded(&["a", "b"]);
    herd.reload(&format!("memory: {memory}M"), &format!("memory: {}M", 2 * memory));
    for client in &mut waiting {
        let problem = client.answer().problem(502, "worker_start_failed");
        assert!(detail(&problem).ends_with("it would never fit"), "{problem}");
    }
    let (herd, memory, mut waiting) = crowded(&["a"]);
    herd.reload("reserve: 0", &format!("reserve: {}M", memory / 2));
    let problem = waiting[0].answer().problem(502, "worker_start_failed");
    assert!(detail(&problem).ends_with("it would never fit"), "{problem}");
}
