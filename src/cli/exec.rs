//! `herd exec`.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::client::{Control, session_id};
use super::raw::Raw;
use crate::control::channels::{FromClient, FromHerd, MAX_MESSAGE, PROTOCOL};
use crate::control::views::{ExecEnd, ExecOutcome};
use crate::core::SessionId;
use crate::sys::terminal;
use crate::worker::escape;

/// Run a command in a session's worker, beside its program
///
/// The command runs where the worker's program does: in its sandbox, as its user, under its limits, with its
/// environment. If standard input and output are a terminal, the command gets one, too, as with -it. It does not keep
/// the session alive, and dies with it; when this command ends first, also by kill -9, the other is killed or hung up.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  herd exec user-42                                   # a shell
  herd exec user-42 -- ps aux
  herd exec -i user-42 -- tar -xf - < files.tar
  herd exec -e DEBUG=1 -w /tmp user-42 -- sh -c 'env; pwd'

Exit codes: the command's; 128 and the signal's number if one killed it; 126
or 127 if it cannot be run or found; 1 if herd cannot run it or the session
ended first, 2 for wrong usage.")]
pub struct Exec {
    /// Pass standard input on [default: if it and standard output are a terminal]
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal [default: if standard input and output are one]
    #[arg(short, long)]
    tty: bool,
    /// Give it none, also from a terminal
    #[arg(short = 'T', long, conflicts_with = "tty")]
    no_tty: bool,
    /// Set a variable of the command
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<String>,
    /// Where to run it, as an absolute path [default: where the worker's program was started]
    #[arg(short, long, value_name = "DIR", value_parser = absolute)]
    workdir: Option<String>,
    /// The session
    #[arg(value_parser = session_id)]
    id: SessionId,
    /// The command and its arguments [default: /bin/sh]
    #[arg(last = true, value_name = "COMMAND", value_hint = clap::ValueHint::AnyPath)]
    command: Vec<String>,
    #[command(flatten)]
    control: Control,
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Whether standard input is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stdin {
    Passed,
    Not,
}

/// What the command has of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pipes,
    /// A terminal that nobody types at.
    Shown,
    /// One that stands for this one.
    Typed,
}

/// How it came to an end here.
enum Attended {
    Over(ExecEnd),
    /// By a signal to this process; its number.
    Told(u8),
}

/// Bytes of standard input that are sent at a time; far below [`MAX_MESSAGE`].
const CHUNK: usize = 32 << 10;

/// How long herd may take to hear that nobody listens any more.
const FAREWELL: Duration = Duration::from_secs(1);

impl Exec {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let at_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        let tty = !self.no_tty && (self.tty || at_terminal);
        let stdin = match self.interactive || (at_terminal && !self.tty && !self.no_tty) {
            true => Stdin::Passed,
            false => Stdin::Not,
        };
        let mode = match (tty, stdin) {
            (false, _) => Mode::Pipes,
            (true, Stdin::Not) => Mode::Shown,
            (true, Stdin::Passed) => Mode::Typed,
        };
        let path = self.path(mode, stdin);
        self.control.run(|mut client| async move {
            let upgraded = client.upgrade(&path, PROTOCOL).await?;
            let config = WebSocketConfig::default()
                .max_message_size(Some(MAX_MESSAGE))
                .max_frame_size(Some(MAX_MESSAGE));
            let io = TokioIo::new(upgraded);
            let socket = WebSocketStream::from_raw_socket(io, Role::Client, Some(config)).await;
            // Heard before the terminal is changed, which has to be changed back whatever comes.
            let signals = Signals::hear(mode)?;
            let raw = match mode {
                Mode::Typed => Raw::enter()?,
                Mode::Pipes | Mode::Shown => None,
            };
            let attended = attend(socket, stdin, signals).await;
            drop(raw);
            Ok(match attended? {
                Attended::Over(end) => tell(&end),
                Attended::Told(signal) => ExitCode::from(128 + signal),
            })
        })
    }

    fn path(&self, mode: Mode, stdin: Stdin) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let shell = ["/bin/sh".to_owned()];
        let command = match self.command.is_empty() {
            true => &shell[..],
            false => &self.command,
        };
        for word in command {
            query.append_pair("command", word);
        }
        if mode != Mode::Pipes {
            query.append_pair("tty", "true");
            if let Some(size) = own_size() {
                query.append_pair("cols", &size.cols.to_string());
                query.append_pair("rows", &size.rows.to_string());
            }
            if let Ok(term) = std::env::var("TERM") {
                query.append_pair("env", &format!("TERM={term}"));
            }
        }
        for variable in &self.env {
            query.append_pair("env", variable);
        }
        if let Some(workdir) = &self.workdir {
            query.append_pair("cwd", workdir);
        }
        if stdin == Stdin::Passed {
            query.append_pair("stdin", "true");
        }
        if let Some(principal) = self.id.principal() {
            query.append_pair("principal", principal);
        }
        format!("/v1/sessions/{}/exec?{}", self.id.id(), query.finish())
    }
}

/// For clap.
fn variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("a variable is NAME=VALUE".to_owned()),
    }
}

/// For clap. Here it means nothing, and herd has no directory that it could be meant from.
fn absolute(text: &str) -> Result<String, String> {
    match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err("it has to be an absolute path, of the worker's sandbox".to_owned()),
    }
}

fn own_size() -> Option<terminal::Size> {
    terminal::size(io::stdout().as_fd()).or_else(|| terminal::size(io::stdin().as_fd()))
}

/// Signals that this process does not leave to the kernel.
struct Signals {
    window: Option<Signal>,
    /// They would leave the terminal as it is.
    ends: Vec<(Signal, u8)>,
}

impl Signals {
    fn hear(mode: Mode) -> io::Result<Self> {
        let ends = match mode {
            Mode::Typed => &[
                (SignalKind::hangup(), libc::SIGHUP),
                (SignalKind::interrupt(), libc::SIGINT),
                (SignalKind::quit(), libc::SIGQUIT),
                (SignalKind::terminate(), libc::SIGTERM),
            ][..],
            Mode::Pipes | Mode::Shown => &[],
        };
        Ok(Self {
            window: match mode {
                Mode::Pipes => None,
                Mode::Shown | Mode::Typed => Some(signal(SignalKind::window_change())?),
            },
            ends: ends
                .iter()
                .map(|(kind, number)| Ok((signal(*kind)?, u8::try_from(*number).unwrap_or_default())))
                .collect::<io::Result<_>>()?,
        })
    }

    async fn resized(window: &mut Option<Signal>) -> terminal::Size {
        loop {
            let heard = match window {
                Some(window) => window.recv().await,
                None => None,
            };
            match (heard, own_size()) {
                (Some(()), Some(size)) => return size,
                (Some(()), None) => {}
                (None, _) => std::future::pending().await,
            }
        }
    }

    async fn end(ends: &mut [(Signal, u8)]) -> u8 {
        std::future::poll_fn(|cx| {
            ends.iter_mut()
                .find_map(|(signal, number)| signal.poll_recv(cx).is_ready().then_some(*number))
                .map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await
    }
}

/// Passes everything on in both directions until the command has ended or this one has to.
async fn attend(socket: Socket, stdin: Stdin, signals: Signals) -> anyhow::Result<Attended> {
    let (mut out, mut from) = socket.split();
    let Signals { window, mut ends } = signals;
    let attended = tokio::select! {
        end = show(&mut from) => Attended::Over(end?),
        never = pass_on(stdin, window, &mut out) => match never {},
        signal = Signals::end(&mut ends) => Attended::Told(signal),
    };
    // herd has nothing more to say, or is not asked.
    let _ = tokio::time::timeout(FAREWELL, out.close()).await;
    Ok(attended)
}

/// Prints what the command writes, until herd tells how it ended.
async fn show(from: &mut SplitStream<Socket>) -> anyhow::Result<ExecEnd> {
    while let Some(message) = from.next().await {
        let Message::Binary(message) = message.context("herd went away")? else {
            continue;
        };
        match FromHerd::parse(message).context("herd is not understood")? {
            FromHerd::Stdout(bytes) => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&bytes)?;
                stdout.flush()?;
            }
            FromHerd::Stderr(bytes) => io::stderr().lock().write_all(&bytes)?,
            FromHerd::Status(end) => return Ok(end),
        }
    }
    anyhow::bail!("herd went away before it told how the command ended")
}

/// Sends what is typed or piped, and new sizes. Where nothing can be sent any more, [`show`] finds out why.
async fn pass_on(
    stdin: Stdin,
    mut window: Option<Signal>,
    out: &mut SplitSink<Socket, Message>,
) -> std::convert::Infallible {
    let mut input = match stdin {
        Stdin::Passed => Some(standard_input()),
        Stdin::Not => None,
    };
    loop {
        let said = tokio::select! {
            chunk = next(&mut input) => match chunk {
                Some(chunk) => FromClient::Stdin(chunk),
                None => {
                    input = None;
                    FromClient::StdinEnds
                }
            },
            size = Signals::resized(&mut window) => FromClient::Resize(size),
        };
        if out.send(Message::Binary(said.message())).await.is_err() {
            std::future::pending().await
        }
    }
}

async fn next(input: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

/// Read by a thread, because a terminal or a file cannot be waited for without changing it for others too.
fn standard_input() -> mpsc::Receiver<Bytes> {
    let (feed, fed) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        let mut stdin = io::stdin().lock();
        loop {
            match stdin.read(&mut buffer) {
                Ok(read @ 1..) => {
                    if feed
                        .blocking_send(Bytes::copy_from_slice(&buffer[..read]))
                        .is_err()
                    {
                        return;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return,
            }
        }
    });
    fed
}

/// Says what is not the command's own to say; the exit code.
fn tell(end: &ExecEnd) -> ExitCode {
    match end.outcome {
        ExecOutcome::Exited | ExecOutcome::Signalled => {}
        ExecOutcome::NotRun
        | ExecOutcome::SessionEnded
        | ExecOutcome::HerdEnds
        | ExecOutcome::Revoked
        | ExecOutcome::ClientLeft
        | ExecOutcome::Misused => eprintln!("herd: {}", escape(end.detail.as_bytes())),
    }
    let code = end.exit_code.and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Verb};
    use super::*;

    fn path(words: &[&str], mode: Mode, stdin: Stdin) -> String {
        let cli = Cli::try_parse_from(["herd", "exec"].iter().chain(words)).unwrap();
        let Verb::Exec(exec) = cli.verb else {
            panic!("another verb");
        };
        exec.path(mode, stdin)
    }

    #[test]
    fn a_command_line_becomes_a_query() {
        assert_eq!(
            path(&["a", "--", "sh", "-c", "a & b"], Mode::Pipes, Stdin::Not),
            "/v1/sessions/a/exec?command=sh&command=-c&command=a+%26+b"
        );
        assert_eq!(
            path(
                &["-i", "-e", "A=b", "-w", "/tmp", "a", "--", "cat"],
                Mode::Pipes,
                Stdin::Passed
            ),
            "/v1/sessions/a/exec?command=cat&env=A%3Db&cwd=%2Ftmp&stdin=true"
        );
        let shell = path(&["a"], Mode::Shown, Stdin::Not);
        assert!(
            shell.starts_with("/v1/sessions/a/exec?command=%2Fbin%2Fsh&tty=true"),
            "{shell}"
        );
    }

    #[test]
    fn what_is_said_wrong_is_told_before_anything_is_asked() {
        for words in [
            &["-e", "A", "a"][..],
            &["-e", "=b", "a"],
            &["-t", "-T", "a"],
            &["A/b"],
            &["a/b/c"],
            &[],
        ] {
            let cli = Cli::try_parse_from(["herd", "exec"].iter().chain(words));
            assert!(cli.is_err(), "{words:?}");
        }
    }

    #[test]
    fn the_exit_code_is_the_commands() {
        let end = |exit_code| ExecEnd {
            outcome: ExecOutcome::Exited,
            exit_code,
            signal: None,
            reason: None,
            detail: String::new(),
        };
        assert_eq!(tell(&end(Some(7))), ExitCode::from(7));
        assert_eq!(tell(&end(None)), ExitCode::FAILURE);
    }
}
