//! The data plane of a real `herd start`, asked over raw sockets, with workers that misbehave on request.

mod admission;
mod bodies;
mod capacity;
mod crashes;
mod h2;
mod liveness;
mod requests;
mod starts;

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::running::{CAP, Running, poll};
use crate::supervised::Mode;

/// A herd in a directory of its own. Dropping it asserts that it left nothing.
struct Herd {
    running: Running,
}

impl Herd {
    /// `kinds` is the text below `workers:`, with `WORKER` (`H2WORKER`: of one that speaks HTTP/2 only) for
    /// the command line's beginning and `DIR` for the test's directory.
    fn start(kinds: &str) -> Self {
        Self::start_with("", kinds)
    }

    /// `rest` are further top-level keys.
    fn start_with(rest: &str, kinds: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("worker.py");
        std::fs::write(&script, include_str!("worker.py")).unwrap();
        let h2_script = dir.path().join("h2_worker.py");
        std::fs::write(&h2_script, include_str!("h2_worker.py")).unwrap();
        let tag = dir.path().display().to_string();
        let network = if rest.contains("network:") {
            ""
        } else {
            "network: { data_bind: 127.0.0.1:0 }\n"
        };
        let kinds = kinds
            .replace("H2WORKER", &format!("python3, {:?}", h2_script.display()))
            .replace("WORKER", &format!("python3, {:?}", script.display()))
            .replace("DIR", &tag);
        let yaml = format!("{network}{rest}\nworkers:\n{kinds}\n");
        let running = Running::launch_with(dir, Mode::Own, &yaml).ready();
        Self { running }
    }

    /// One kind, `w`, with these further lines of settings.
    fn one(arguments: &str, settings: &str) -> Self {
        Self::start(&one(arguments, settings))
    }

    /// Puts the file in force with this in another's place; what was said.
    fn reload(&self, old: &str, new: &str) -> String {
        let file = self.path("herd.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(old), "{old:?} is not in {text}");
        std::fs::write(&file, text.replace(old, new)).unwrap();
        let output = self.running.herd(&["reload"]);
        assert!(output.status.success(), "{output:?}");
        crate::running::stdout(&output)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.running.dir.path().join(name)
    }

    fn client(&self) -> Client {
        Client::to(self.address())
    }

    fn address(&self) -> SocketAddr {
        self.running.data_address().unwrap().parse().unwrap()
    }

    /// A GET over a connection of its own.
    fn get(&self, id: &str, path: &str) -> Answer {
        self.client().get(id, path)
    }

    /// Kills the worker's own process, a child of the keeper that herd lists.
    fn kill_worker_of(&self, id: &str) {
        let keeper = self.keeper_of(id);
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
        let worker = children.split_whitespace().next().unwrap();
        kill(Pid::from_raw(worker.parse().unwrap()), Signal::SIGKILL).unwrap();
    }

    /// Listens on the port of a worker that was told to announce it, before that worker does.
    fn stranger_on_the_port(&self) -> TcpListener {
        let port = crate::running::poll("the first worker knows its port", || {
            std::fs::read_to_string(self.path("port")).map_err(|e| e.to_string())
        });
        TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse().unwrap())).unwrap()
    }

    fn keeper_of(&self, id: &str) -> Pid {
        Pid::from_raw(self.running.until(id, "bound")["pid"].as_i64().unwrap() as i32)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.running.pid()), signal).unwrap();
    }
}

/// The text of one kind, `w`: the script with these arguments, and these further lines of settings.
fn one(arguments: &str, settings: &str) -> String {
    let settings = settings.replace('\n', "\n    ");
    format!("  w:\n    cmd: [WORKER, \"{{{{.Port}}}}\"{arguments}]\n    {settings}\n")
}

struct Client(BufReader<TcpStream>);

#[derive(Debug)]
struct Answer {
    status: u16,
    fields: HashMap<String, String>,
    body: Vec<u8>,
}

impl Client {
    fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(CAP)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn get(&mut self, id: &str, path: &str) -> Answer {
        self.get_with(id, path, "")
    }

    /// `fields` end in CRLF, each.
    fn get_with(&mut self, id: &str, path: &str, fields: &str) -> Answer {
        self.send(&get(id, path, fields));
        self.answer()
    }

    fn answer(&mut self) -> Answer {
        let (status, fields) = self.head();
        let body = self.body(&fields).unwrap();
        Answer { status, fields, body }
    }

    fn head(&mut self) -> (u16, HashMap<String, String>) {
        let line = self.line().unwrap();
        let status = line
            .split(' ')
            .nth(1)
            .unwrap_or_else(|| panic!("no status in {line:?}"));
        let mut fields = HashMap::new();
        loop {
            let line = self.line().unwrap();
            let Some((name, value)) = line.split_once(": ") else {
                return (status.parse().unwrap(), fields);
            };
            fields.insert(name.to_ascii_lowercase(), value.to_owned());
        }
    }

    /// An error where the answer does not end as it has to.
    fn body(&mut self, fields: &HashMap<String, String>) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if let Some(length) = fields.get("content-length") {
            body.resize(length.parse().unwrap(), 0);
            self.0.read_exact(&mut body)?;
            return Ok(body);
        }
        assert_eq!(
            fields.get("transfer-encoding").map(String::as_str),
            Some("chunked"),
            "{fields:?}"
        );
        loop {
            let size = usize::from_str_radix(&self.line()?, 16).unwrap();
            let start = body.len();
            body.resize(start + size, 0);
            self.0.read_exact(&mut body[start..])?;
            self.line()?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 || !line.ends_with('\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

fn get(id: &str, path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Session-ID: {id}\r\n{fields}\r\n")
}

impl Answer {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Asserts that a worker answered, and returns what.
    fn good(&self) -> Value {
        assert_eq!((self.status, self.field("x-herd-error")), (200, ""), "{self:?}");
        self.json()
    }

    /// Asserts that herd made this error; returns its problem document.
    fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(
            (self.status, self.field("x-herd-error")),
            (status, code),
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        assert_eq!(self.field("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(
            (&problem["status"], &problem["code"]),
            (&status.into(), &code.into())
        );
        problem
    }
}

fn detail(problem: &Value) -> &str {
    problem["detail"].as_str().unwrap()
}

fn tail(problem: &Value) -> String {
    problem["log_tail"].to_string()
}
