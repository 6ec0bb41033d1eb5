//! haproxy, one thread.

use std::fmt::Write;
use std::path::Path;

use super::{Front, Upstream, free_port, front};
use crate::lab::Lab;
use crate::process::Process;

/// Beside connections: listeners, logs, and two for each pipe.
const OTHER_FILES: u64 = 700;

/// As haproxy is without a word, but for the limit of pipes, which it counts as files.
const COMMON: &str = "\
  nbthread 1
  maxpipes 200
defaults
  mode http
  option http-keep-alive
  http-reuse always
  option splice-auto
  timeout connect 10s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
  timeout tunnel 1h
";

/// What herd does to a request's head, too.
const FORWARDING: &str = "  http-request del-header X-Forwarded-For
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(Host)]
";

const STICK: &str =
    "  stick-table type string len 128 size 100k expire 1h\n  stick on req.hdr(X-Session-ID)\n";

pub(super) fn start(
    lab: &Lab,
    dir: &Path,
    program: &Path,
    upstream: &Upstream,
) -> anyhow::Result<(Process, Vec<Front>)> {
    let over_tcp = format!("127.0.0.1:{}", upstream.port);
    let over_unix = format!("unix@{}", upstream.socket.display());
    let sides = [
        ("haproxy", &over_tcp, STICK, ""),
        ("haproxy-h2", &over_tcp, STICK, " proto h2"),
        ("haproxy-unix", &over_unix, STICK, ""),
        ("haproxy-plain", &over_tcp, "", ""),
    ];
    // Two files each.
    let connections = lab.open_files().saturating_sub(OTHER_FILES) / 2;
    let mut text = format!("global\n  maxconn {connections}\n{COMMON}");
    let mut ports = Vec::new();
    for (name, server, stick, protocol) in sides {
        let port = free_port()?;
        write!(
            text,
            "frontend {name}\n  bind 127.0.0.1:{port}{protocol}\n\
             \x20 http-request deny deny_status 400 unless {{ req.hdr(X-Session-ID) -m found }}\n\
             {FORWARDING}  default_backend to-{name}\nbackend to-{name}\n{stick}  server worker {server}\n"
        )?;
        ports.push((name, port));
    }
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, text)?;
    let arguments = ["-db".as_ref(), "-f".as_ref(), file.as_os_str()].map(ToOwned::to_owned);
    let mut process = Process::start("haproxy", lab.cores.proxy, dir, program, arguments)?;
    let fronts: Vec<Front> = ports
        .into_iter()
        .map(|(name, port)| front(name, port, process.pid()))
        .collect();
    process.until("haproxy answers", || fronts[0].target.once("/small", ""))?;
    Ok((process, fronts))
}
