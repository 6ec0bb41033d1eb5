//! herd with a worker behind a port and one behind a UNIX socket: two sessions of one herd.

use std::path::Path;

use super::{Front, free_port, session_front, upstream_command};
use crate::lab::Lab;
use crate::process::Process;

pub(super) fn start(lab: &Lab, dir: &Path) -> anyhow::Result<(Process, Vec<Front>)> {
    let port = free_port()?;
    let command = |rest: [&str; 2]| -> anyhow::Result<String> {
        let mut words = upstream_command(lab)?;
        words.extend(rest.map(str::to_owned));
        // JSON is YAML.
        Ok(serde_json::to_string(&words)?)
    };
    let file = dir.join("herd.yaml");
    let text = format!(
        "network: {{data_bind: \"127.0.0.1:{port}\", idle_timeout: 1h, max_connections: 100000}}\n\
         drain_timeout: 1ms\n\
         defaults: {{max: 1, ttl: never, on_disconnect: ttl, sandbox: off}}\n\
         workers:\n  tcp: {{cmd: {}}}\n  unix: {{cmd: {}}}\n",
        command(["--tcp", "{{.Port}}"])?,
        command(["--unix", "{{.Socket}}"])?,
    );
    std::fs::write(&file, text)?;
    let arguments = [
        "start".as_ref(),
        "--config".as_ref(),
        file.as_os_str(),
        "--state-dir".as_ref(),
        dir.join("s").as_os_str(),
        "--control-socket".as_ref(),
        dir.join("c/c.sock").as_os_str(),
    ]
    .map(ToOwned::to_owned);
    let mut process = Process::start("herd", lab.cores.proxy, dir, &lab.herd, arguments)?;
    let fronts = vec![
        session_front("herd", port, process.pid(), "session-of-tcp"),
        session_front("herd-unix", port, process.pid(), "session-of-unix"),
    ];
    // Binds the sessions; later requests name only the session.
    process.until("herd answers", || {
        fronts[0].target.once("/small", "X-Herd-Worker: tcp\r\n")
    })?;
    process.until("herd answers", || {
        fronts[1].target.once("/small", "X-Herd-Worker: unix\r\n")
    })?;
    Ok((process, fronts))
}
