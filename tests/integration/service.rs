//! Under a service manager: what it is told, and the socket it hands over. The whole of systemd is in `tests/vm/systemd`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::running::{CAP, HERD, Running};
use crate::supervised::Mode;

fn yaml() -> String {
    format!(
        "network: {{ data_bind: 127.0.0.1:0 }}\n\
         workers: {{ runner: {{ cmd: [{HERD}, runner, --listen, \"{{{{.Port}}}}\"], sandbox: off }} }}\n"
    )
}

/// What is told, until this is in it.
fn until(told: &UnixDatagram, part: &str) -> String {
    let mut all = String::new();
    let mut buffer = [0; 4096];
    while !all.contains(part) {
        let length = told
            .recv(&mut buffer)
            .unwrap_or_else(|e| panic!("{part}: {e}; told: {all}"));
        all.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    all
}

#[test]
fn a_service_manager_is_told_that_herd_is_ready_lives_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let told = UnixDatagram::bind(&path).unwrap();
    told.set_read_timeout(Some(CAP)).unwrap();
    let notify = format!("NOTIFY_SOCKET={}", path.display());
    let through = ["env", &notify, "WATCHDOG_USEC=100000"];
    let mut herd = Running::launch_through(&through, dir, Mode::Own, &yaml()).ready();
    let ready = until(&told, "READY=1");
    assert!(
        ready.contains("STATUS=serving sessions at http://127.0.0.1:"),
        "{ready}"
    );
    until(&told, "WATCHDOG=1");
    until(&told, "WATCHDOG=1");
    kill(Pid::from_raw(herd.pid()), Signal::SIGTERM).unwrap();
    until(&told, "STOPPING=1");
    let status = herd.wait();
    herd.assert_clean(status);
}

#[test]
fn a_service_manager_is_told_of_a_reload_and_of_a_drain_that_the_api_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let told = UnixDatagram::bind(&path).unwrap();
    told.set_read_timeout(Some(CAP)).unwrap();
    let notify = format!("NOTIFY_SOCKET={}", path.display());
    let mut herd = Running::launch_through(&["env", &notify], dir, Mode::Own, &yaml()).ready();
    until(&told, "READY=1");
    kill(Pid::from_raw(herd.pid()), Signal::SIGHUP).unwrap();
    // systemd takes the time for the answer's place: both have to come in one message.
    let reloading = until(&told, "RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    let ready = until(&told, "READY=1");
    assert!(ready.contains("; configuration 2 is in force"), "{ready}");
    std::fs::write(herd.dir.path().join("herd.yaml"), "workers: {}\n").unwrap();
    assert_eq!(herd.herd(&["reload"]).status.code(), Some(1));
    let failed = until(&told, "READY=1");
    assert!(failed.contains("; the latest reload failed"), "{failed}");
    assert!(herd.herd(&["drain"]).status.success());
    until(&told, "STOPPING=1");
    let status = herd.wait();
    herd.assert_clean(status);
}

#[test]
fn who_connects_while_herd_is_restarted_is_served_by_the_next() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    // As systemd hands it over: descriptor 3, meant for this process alone.
    let hand_over = format!(
        "exec 3<&{}; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"",
        listener.as_raw_fd()
    );
    let through = ["bash", "-c", &hand_over, "bash"];
    let start = || Running::launch_through(&through, tempfile::tempdir().unwrap(), Mode::Own, &yaml());
    let ask = || {
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(CAP)).unwrap();
        let request = "GET /healthz HTTP/1.1\r\nhost: a\r\nx-session-id: s\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let served = |mut stream: TcpStream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    };

    // Its end is waited for here, because the socket stays: it is this test's.
    let end = |mut herd: Running| {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            kill(Pid::from_raw(herd.pid()), signal).unwrap();
        }
        let status = herd.wait();
        herd.assert_clean(status);
    };

    let early = ask();
    let first = start().ready();
    served(early);
    let address = first.data_address().unwrap();
    assert_eq!(address, listener.local_addr().unwrap().to_string());
    end(first);

    let between = ask();
    let second = start().ready();
    served(between);
    end(second);
}

#[test]
fn what_is_no_listening_socket_is_refused() {
    let mut herd = Running::launch_through(
        &[
            "bash",
            "-c",
            "exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"",
            "bash",
        ],
        tempfile::tempdir().unwrap(),
        Mode::Own,
        &yaml(),
    );
    let status = herd.wait();
    assert_eq!(status.code(), Some(1));
    let said = herd.said();
    assert!(
        said.contains("socket activation: what was handed over is no socket; herd takes one ListenStream="),
        "{said}"
    );
}
