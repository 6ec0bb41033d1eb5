//! nginx, one process.

use std::fmt::Write;
use std::path::Path;

use super::{Front, Upstream, free_port, front};
use crate::lab::Lab;
use crate::process::Process;

const SERVER: &str = "
    keepalive_timeout 1h; keepalive_requests 1000000000; client_max_body_size 0;
    location / {
      if ($http_x_session_id = '') { return 400; }
      proxy_http_version 1.1;
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 1h;
      proxy_send_timeout 1h;
      proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $to_worker;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto http;
      proxy_set_header X-Forwarded-Host $http_host;
";

pub(super) fn start(
    lab: &Lab,
    dir: &Path,
    program: &Path,
    upstream: &Upstream,
) -> anyhow::Result<(Process, Vec<Front>)> {
    let mut text = format!(
        "daemon off; master_process off; error_log stderr warn; pid {0}/nginx.pid;\n\
         events {{ worker_connections {1}; }}\n\
         http {{\n  access_log off; server_tokens off;\n\
         \x20 client_body_temp_path {0}/nginx-body; proxy_temp_path {0}/nginx-proxy; fastcgi_temp_path {0}/nginx-f;\n\
         \x20 uwsgi_temp_path {0}/nginx-u; scgi_temp_path {0}/nginx-s;\n\
         \x20 map $http_upgrade $to_worker {{ default upgrade; '' ''; }}\n",
        dir.display(),
        lab.open_files()
    );
    let over_tcp = format!("127.0.0.1:{}", upstream.port);
    let over_unix = format!("unix:{}", upstream.socket.display());
    let mut ports = Vec::new();
    for (name, server, protocol) in [
        ("nginx", &over_tcp, ""),
        ("nginx-h2", &over_tcp, " http2"),
        ("nginx-unix", &over_unix, ""),
    ] {
        let port = free_port()?;
        writeln!(
            text,
            "  upstream to-{name} {{ hash $http_x_session_id; server {server}; keepalive 512; \
             keepalive_requests 1000000000; keepalive_timeout 1h; }}\n\
             \x20 server {{ listen 127.0.0.1:{port}{protocol}; {SERVER} proxy_pass http://to-{name}; }} }}"
        )?;
        ports.push((name, port));
    }
    text.push_str("}\n");
    let file = dir.join("nginx.conf");
    std::fs::write(&file, text)?;
    let arguments = [
        "-p".as_ref(),
        dir.as_os_str(),
        "-e".as_ref(),
        "stderr".as_ref(),
        "-c".as_ref(),
        file.as_os_str(),
    ]
    .map(ToOwned::to_owned);
    let mut process = Process::start("nginx", lab.cores.proxy, dir, program, arguments)?;
    let fronts: Vec<Front> = ports
        .into_iter()
        .map(|(name, port)| front(name, port, process.pid()))
        .collect();
    process.until("nginx answers", || fronts[0].target.once("/small", ""))?;
    Ok((process, fronts))
}
