//! What must be as before, whatever happens to the session: the neighbour's, and what herd itself has open.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::client::Client;
use crate::leak;
use crate::scene::PATIENCE;
use crate::view;
use crate::watch::{Watched, tree};

const NEIGHBOUR: &str = "neighbour";

/// A session beside it, on one connection, held.
pub(crate) struct Neighbour {
    stream: BufReader<TcpStream>,
    pid: Value,
    watched: Watched,
    hold: UnixStream,
}

/// What herd itself has open.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    descriptors: BTreeMap<String, usize>,
    threads: usize,
}

impl Neighbour {
    pub(crate) fn bind(client: &Client) -> Self {
        let hold = client.hold_with(NEIGHBOUR, "?worker=n").unwrap();
        let stream = TcpStream::connect(&client.data).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut this = Self {
            stream: BufReader::new(stream),
            pid: Value::Null,
            watched: Watched::new([]),
            hold,
        };
        this.pid = this.ask();
        let shown = client.look(&format!("/v1/sessions/{NEIGHBOUR}")).unwrap();
        this.watched = Watched::new(tree(shown["pid"].as_i64().unwrap() as i32));
        this
    }

    /// Whose tree its worker's is.
    pub(crate) fn keeper(&self) -> i32 {
        self.watched.pids()[0]
    }

    /// It has its worker, its connection and its hold, as ever.
    pub(crate) fn assert_lives(&mut self) {
        self.watched.assert_all_live();
        assert_eq!(self.ask(), self.pid);
        self.assert_held();
    }

    /// The same where herd can open nothing: the connection to the worker may have been closed in a quiet moment, and
    /// then that request fails, but never the session.
    pub(crate) fn assert_lives_in_need(&mut self) {
        self.watched.assert_all_live();
        let (head, body) = self.exchange();
        let view = view::answer(format!("{head}{body}").as_bytes());
        assert!(
            ["200", "502 worker_connection_lost"].contains(&view.as_str()),
            "{head}{body}"
        );
        self.assert_held();
    }

    fn assert_held(&mut self) {
        self.hold.set_nonblocking(true).unwrap();
        let mut said = Vec::new();
        let end = self.hold.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        assert!(
            end.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock) && !said.contains("\"ended\""),
            "the hold ended: {said}"
        );
    }

    /// The same where herd drains: connections end with their answer then.
    pub(crate) fn assert_served_to_the_end(&self, client: &Client) {
        self.watched.assert_all_live();
        let again = client.ask(NEIGHBOUR, "GET /", "").unwrap();
        assert!(again.ends_with(&self.pid.to_string()), "{again}");
    }

    /// Its worker's own pid, by the worker itself.
    fn ask(&mut self) -> Value {
        let (head, body) = self.exchange();
        assert!(
            head.starts_with("HTTP/1.1 200 "),
            "the neighbour got {head}{body}"
        );
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {head}{body}"))
    }

    /// The head and the body of an answer.
    fn exchange(&mut self) -> (String, String) {
        write!(
            self.stream.get_mut(),
            "GET / HTTP/1.1\r\nhost: h\r\nx-session-id: {NEIGHBOUR}\r\nx-herd-worker: n\r\n\r\n"
        )
        .unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = self.stream.read_line(&mut head);
            assert!(matches!(read, Ok(1..)), "{read:?} after {head:?}");
        }
        let length = view::field(&head, "content-length").unwrap_or_else(|| panic!("{head}"));
        let mut body = vec![0; length.parse().unwrap()];
        self.stream.read_exact(&mut body).unwrap();
        (head, String::from_utf8(body).unwrap())
    }
}

impl Own {
    pub(crate) fn of(pid: i32) -> Self {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        Self {
            descriptors: leak::descriptors(pid),
            threads,
        }
    }

    pub(crate) fn is_within(&self, before: &Self) -> bool {
        // tokio keeps a thread that has removed a directory for ten seconds.
        self.threads <= before.threads + 1
            && self
                .descriptors
                .iter()
                .all(|(kind, count)| *count <= before.descriptors.get(kind).copied().unwrap_or(0))
    }

    /// What herd gives up to turn clients away when it has no descriptor left, it has again.
    pub(crate) fn has_its_reserve(&self, before: &Self) -> bool {
        self.descriptors.get("/dev/null") == before.descriptors.get("/dev/null")
    }
}
