//! A command in a session's worker, over a WebSocket (RFC 6455): from the request to the 101. What follows is
//! [`relay`]'s; what goes over the socket is told by [`super::channels`].

mod relay;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use super::answer::{self, Answer, Problem};
use super::channels::PROTOCOL;
use super::connection::Connection;
use super::query::Query;
use super::router::{Asked, Router};
use crate::core::SessionId;
use crate::driver::{CommandEnd, Deed, JournalEvent, Session, SessionState};
use crate::sys::terminal::Size;
use crate::worker::{Command, ExecError, On};
use relay::{Stdin, kill, relay};

/// Where a keeper does not answer in this time, something is wrong with it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a terminal is taken for where the client does not say.
const TERM: &str = "xterm";
const SIZE: Size = Size { cols: 80, rows: 24 };

/// Of a command's arguments, so many bytes are remembered for events.
const REMEMBERED: usize = 1024;

impl Router {
    pub(super) async fn exec(
        &self,
        asked: &Asked<'_>,
        upgrade: OnUpgrade,
        connection: &Connection,
    ) -> Result<Answer, Problem> {
        let id = asked.id()?;
        let command = command(&asked.query)?;
        let stdin = match asked.query.flag("stdin") {
            true => Stdin::Open,
            false => Stdin::None,
        };
        let answer = handshake(asked.request)?;
        let session = self.bound(&id).await?;
        let argv = remembered(&command.argv);
        let (running, guest) = match tokio::time::timeout(PATIENCE, session.exec(command)).await {
            Ok(Ok(running)) => running,
            Ok(Err(ExecError::Ended)) => return Err(Problem::unknown_session(&id)),
            Ok(Err(error)) => return Err(refused(&id, &error)),
            Err(_) => return Err(Problem::unavailable("exec_failed", silent(&id))),
        };
        self.audit(
            Deed::Exec {
                id,
                command: argv.clone(),
            },
            &asked.by,
        );
        let (by, journal) = (asked.by.clone(), Arc::clone(self.driver.journal()));
        let stopping = self.stopping.clone();
        let began = Instant::now();
        connection.go_on(async move {
            let end = match upgrade.await {
                Ok(upgraded) => relay(upgraded, running, guest, stdin, &session, stopping).await,
                Err(_) => {
                    kill(running.line, &session).await;
                    drop(guest);
                    CommandEnd::ClientLeft
                }
            };
            tracing::info!(session = %session.name.id, command = ?argv, %end, "command ended");
            journal.push(JournalEvent::CommandEnded {
                session: session.name.clone(),
                command: argv,
                by,
                end,
                lasted: began.elapsed(),
            });
        });
        Ok(answer)
    }

    /// The session, if it has a worker.
    async fn bound(&self, id: &SessionId) -> Result<Arc<Session>, Problem> {
        if let Some(session) = self.driver.bound(id.clone()).await? {
            return Ok(session);
        }
        let newest = self.driver.show(id.clone()).await?.into_iter().next();
        Err(match newest.map(|view| view.state) {
            Some(SessionState::Queued | SessionState::Starting) => Problem::new(
                StatusCode::CONFLICT,
                "no_worker_yet",
                format!("session {id} has no worker yet, so nothing can run in it; try again"),
            ),
            Some(_) => Problem::unknown_session(id),
            None => self.absent(id),
        })
    }
}

fn command(query: &Query<'_>) -> Result<Command, Problem> {
    let plain = |name: &str, value: &str| match value.contains('\0') {
        true => Err(Problem::bad_request(format!(
            "{name} must not contain a NUL byte"
        ))),
        false => Ok(()),
    };
    let argv: Vec<String> = query.values("command").map(str::to_owned).collect();
    if argv.first().is_none_or(String::is_empty) {
        return Err(Problem::bad_request(
            "the query names no program; give it and each of its arguments as command=…",
        ));
    }
    argv.iter().try_for_each(|argument| plain("command", argument))?;
    let mut env = Vec::new();
    for variable in query.values("env") {
        plain("env", variable)?;
        let (name, value) = variable
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| Problem::bad_request("env is NAME=VALUE"))?;
        // The last one counts.
        env.retain(|(known, _)| known != name);
        env.push((name.to_owned(), value.to_owned()));
    }
    let cwd = query.value("cwd").map(str::to_owned);
    if let Some(cwd) = &cwd {
        plain("cwd", cwd)?;
        if !cwd.starts_with('/') {
            return Err(Problem::bad_request("cwd is an absolute path"));
        }
    }
    let terminal = query.flag("tty");
    let given = |name: &str| query.number(name).and_then(|size| u16::try_from(size).ok());
    let on = match (terminal, query.flag("stdin")) {
        (true, _) => {
            if env.iter().all(|(name, _)| name != "TERM") {
                env.push(("TERM".to_owned(), TERM.to_owned()));
            }
            On::Terminal(Size {
                cols: given("cols").unwrap_or(SIZE.cols),
                rows: given("rows").unwrap_or(SIZE.rows),
            })
        }
        (false, true) => On::Pipes,
        (false, false) => On::Outputs,
    };
    Ok(Command { argv, env, cwd, on })
}

/// The 101, or why the request gets none.
fn handshake(request: &Request<Incoming>) -> Result<Answer, Problem> {
    let answer =
        create_response_with_body(request, || ()).map_err(|error| Problem::upgrade_required(&error))?;
    let mut answer = answer.map(|()| answer::empty());
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let mut offered = offered
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .peekable();
    if offered.peek().is_some() {
        if !offered.any(|name| name == PROTOCOL) {
            return Err(Problem::bad_request(format!(
                "the subprotocol is {PROTOCOL}; offer it, or none"
            )));
        }
        answer
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    Ok(answer)
}

fn refused(id: &SessionId, error: &ExecError) -> Problem {
    match error {
        ExecError::Busy { .. } => Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_commands",
            error.to_string(),
        ),
        ExecError::Refused { .. } | ExecError::Ended => {
            Problem::unavailable("exec_failed", error.to_string())
        }
        ExecError::Gone(source) => {
            tracing::debug!(session = %id, %source, "a worker's keeper could not be asked for a command");
            Problem::unavailable("exec_failed", silent(id))
        }
    }
}

fn silent(id: &SessionId) -> String {
    format!("the keeper of session {id}'s worker does not answer; the session may just be ending")
}

/// What events show of a command line.
fn remembered(argv: &[String]) -> Vec<String> {
    let mut room = REMEMBERED;
    let mut shown = Vec::new();
    for argument in argv {
        // Empty ones count, too.
        let takes = argument.len() + 1;
        if takes > room {
            let cut = (0..room).rev().find(|at| argument.is_char_boundary(*at));
            shown.push(format!("{}…", &argument[..cut.unwrap_or(0)]));
            break;
        }
        room -= takes;
        shown.push(argument.clone());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::super::operations::{self, Verb};
    use super::*;

    fn read(query: &str) -> Result<Command, String> {
        let operation = operations::all().find(|operation| operation.verb == Verb::Exec);
        Query::parse(query, operation.unwrap().query)
            .and_then(|query| command(&query))
            .map_err(|problem| problem.detail().to_owned())
    }

    #[test]
    fn a_command_is_read_from_the_query() {
        let command = read("command=sh&command=-c&command=echo+%26&env=A=b=c&env=A=d&cwd=/tmp").unwrap();
        assert_eq!(command.argv, ["sh", "-c", "echo &"]);
        assert_eq!(command.env, [("A".to_owned(), "d".to_owned())]);
        assert_eq!((command.cwd.as_deref(), command.on), (Some("/tmp"), On::Outputs));
        assert_eq!(read("command=cat&stdin=true").unwrap().on, On::Pipes);
    }

    #[test]
    fn a_terminal_has_a_size_and_a_type() {
        let command = read("command=sh&tty=true&cols=132").unwrap();
        assert_eq!(command.on, On::Terminal(Size { cols: 132, rows: 24 }));
        assert_eq!(command.env, [("TERM".to_owned(), "xterm".to_owned())]);
        let command = read("command=sh&tty&env=TERM=dumb").unwrap();
        assert_eq!(command.on, On::Terminal(SIZE));
        assert_eq!(command.env, [("TERM".to_owned(), "dumb".to_owned())]);
    }

    #[test]
    fn a_wrong_command_is_told_what_would_be_right() {
        for (query, told) in [
            (
                "",
                "the query names no program; give it and each of its arguments as command=…",
            ),
            (
                "command=",
                "the query names no program; give it and each of its arguments as command=…",
            ),
            ("command=a%00b", "command must not contain a NUL byte"),
            ("command=a&env=B", "env is NAME=VALUE"),
            ("command=a&env==b", "env is NAME=VALUE"),
            ("command=a&cwd=tmp", "cwd is an absolute path"),
            (
                "command=a&cols=70000",
                "cols is a number from 1 to 65535, not \"70000\"",
            ),
            (
                "command=a&tty&rows=0",
                "rows is a number from 1 to 65535, not \"0\"",
            ),
            ("command=a&cwd=/a&cwd=/b", "the query names \"cwd\" twice"),
        ] {
            assert_eq!(read(query).unwrap_err(), told, "{query}");
        }
    }

    #[test]
    fn long_command_lines_are_remembered_by_their_beginning() {
        let text = |argument: &str| argument.to_owned();
        assert_eq!(remembered(&[text("a"), text("")]), ["a", ""]);
        let long = remembered(&[text("sh"), "ö".repeat(REMEMBERED), text("rest")]);
        assert_eq!(long.len(), 2);
        assert!(
            long[1].ends_with("ö…") && long[1].len() <= REMEMBERED + "…".len(),
            "{}",
            long[1].len()
        );
        let many = remembered(&vec![String::new(); 5000]);
        assert!(many.len() <= REMEMBERED + 1, "{}", many.len());
    }
}
