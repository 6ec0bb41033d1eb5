//! Between a command and whoever wants it: everything in both directions, at the pace of the slower side, until one of
//! them is gone.
//!
//! Four things happen at a time: what the command writes goes out, what comes in is read, of that stdin is written, and
//! somebody looks out for the end. Nothing is kept but what is on its way: a client that does not read makes its command
//! wait, a command that does not read makes its client wait. While a client has to wait with its stdin, its leaving shows
//! at the next heartbeat.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::super::channels::{self, FromClient, MAX_MESSAGE, STDERR, STDOUT};
use super::super::views::ExecEnd;
use super::super::{Stop, Stopping, told};
use crate::driver::{CommandEnd, Guest, Session};
use crate::sys::stream::Stream;
use crate::sys::terminal;
use crate::worker::{CommandLine, Running, Streams, Word};

const HEARTBEAT: Duration = Duration::from_secs(15);

/// What is read of a command's output at a time, bytes.
const CHUNK: usize = 32 << 10;
/// What a socket is read by, bytes.
const READ: usize = 32 << 10;
/// Messages for stdin that may wait for the command.
const WAITING: usize = 4;

/// A command that has ended leaves no more behind than a pipe can hold, bytes; what its own children go on writing is
/// not waited for.
const LEFT_BEHIND: usize = 1 << 20;

/// How long a session's end may be known to herd after its worker's.
const NEWS: Duration = Duration::from_secs(1);

/// A process that was killed is dead in no time, unless the kernel itself waits for something in its name.
const DYING: Duration = Duration::from_secs(10);

/// A client that takes its last messages in no more time than this gets them.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// `^D`, as an empty line ends with it and a started one with two.
const END_OF_INPUT: &[u8] = b"\x04\x04";

type Socket = WebSocketStream<TokioIo<Upgraded>>;
type Out = SplitSink<Socket, Message>;

/// Whether the client has asked to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stdin {
    Open,
    None,
}

/// Where stdin is written to.
enum Input<'s> {
    None,
    Pipe(Stream),
    Terminal(&'s Stream),
}

/// The command is dead, or hung up, when this has returned; and the client knows why, if it is there to be told.
pub(super) async fn relay(
    upgraded: Upgraded,
    running: Running,
    guest: Guest,
    stdin: Stdin,
    session: &Session,
    mut stopping: Stopping,
) -> CommandEnd {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(READ);
    let io = TokioIo::new(upgraded);
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (mut out, mut from) = socket.split();
    let Running { line, streams } = running;
    let (output, errors, pipe) = match streams {
        Streams::Pipes {
            stdin,
            stdout,
            stderr,
        } => (stdout, Some(stderr), stdin),
        Streams::Terminal(terminal) => (terminal, None, None),
    };
    let terminal = errors.is_none().then_some(&output);
    let input = match (stdin, pipe, terminal) {
        (Stdin::Open, Some(pipe), _) => Input::Pipe(pipe),
        (Stdin::Open, None, Some(terminal)) => Input::Terminal(terminal),
        (Stdin::None, ..) | (Stdin::Open, None, None) => Input::None,
    };
    let mut outputs = [
        Output::new(STDOUT, Some(&output)),
        Output::new(STDERR, errors.as_ref()),
    ];
    let (feed, fed) = mpsc::channel(WAITING);
    let end = tokio::select! {
        end = pass_on(&mut outputs, &line, &mut out) => end,
        end = listen(&mut from, feed, stdin, terminal) => end,
        never = write(input, fed) => match never {},
        reason = session.wait_end() => CommandEnd::SessionEnded { reason: Some(reason) },
        why = told(&mut stopping) => match why {
            Stop::HerdEnds => CommandEnd::HerdEnds,
            Stop::Revoked => CommandEnd::Revoked,
        },
    };
    // Whatever the client does now, the command does not wait for it; and its worker waits for the command's death, not
    // for the client.
    match (&end, terminal) {
        // A terminal hangs up: what ignores that was meant to stay.
        (CommandEnd::ClientLeft, Some(_)) => drop(line),
        _ => kill(line, session).await,
    }
    drop(guest);
    let end = match end {
        CommandEnd::SessionEnded { reason: None } => CommandEnd::SessionEnded {
            reason: session.wait_end_for(NEWS).await,
        },
        end => end,
    };
    let last_words = async {
        match &end {
            // Its close, if it sent one, has its answer ready.
            CommandEnd::ClientLeft => out.flush().await,
            end => farewell(end, &mut outputs, &mut out, &mut from).await,
        }
    };
    // A client that is too slow for them misses what it would not take.
    let _ = timeout(LAST_WORDS, last_words).await;
    end
}

/// One of the command's two outputs.
struct Output<'s> {
    /// `None`: nobody can write there any more.
    stream: Option<&'s Stream>,
    /// The channel, then what was read.
    buffer: Vec<u8>,
}

impl<'s> Output<'s> {
    fn new(channel: u8, stream: Option<&'s Stream>) -> Self {
        let mut buffer = Vec::new();
        if stream.is_some() {
            buffer.resize(1 + CHUNK, channel);
        }
        Self { stream, buffer }
    }

    /// The next message; never, if there is none. Cancel-safe.
    async fn message(&mut self) -> Message {
        loop {
            let Some(stream) = self.stream else {
                std::future::pending().await
            };
            match stream.read(&mut self.buffer[1..]).await {
                Ok(read @ 1..) => return binary(&self.buffer[..=read]),
                Ok(_) | Err(_) => self.stream = None,
            }
        }
    }

    /// The next message, if it is there already.
    fn rest(&mut self) -> Option<Message> {
        match self.stream?.read_now(&mut self.buffer[1..]) {
            Ok(read @ 1..) => Some(binary(&self.buffer[..=read])),
            Ok(_) | Err(_) => None,
        }
    }
}

/// Returns when the command is dead.
pub(super) async fn kill(line: CommandLine, session: &Session) {
    if timeout(DYING, line.kill()).await.is_err() {
        tracing::warn!(session = %session.name.id, "a killed command does not die");
    }
}

fn binary(bytes: &[u8]) -> Message {
    Message::Binary(Bytes::copy_from_slice(bytes))
}

/// Sends what the command writes, until it ends.
async fn pass_on(outputs: &mut [Output<'_>; 2], line: &CommandLine, to: &mut Out) -> CommandEnd {
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.reset();
    let [first, second] = outputs;
    let word = loop {
        let message = tokio::select! {
            message = first.message() => message,
            message = second.message() => message,
            word = line.ended() => break word,
            _ = heartbeat.tick() => Message::Ping(Bytes::new()),
        };
        if to.send(message).await.is_err() {
            return CommandEnd::ClientLeft;
        }
    };
    // It ended before this was said, so all that it wrote is there.
    if drain(outputs, to).await.is_err() {
        return CommandEnd::ClientLeft;
    }
    match word {
        Some(Word::Exited { code }) => CommandEnd::Exited { code },
        Some(Word::Signalled { signal }) => CommandEnd::Signalled { signal },
        Some(Word::NotRun { message, code }) => CommandEnd::NotRun { message, code },
        Some(Word::Runs | Word::Busy { .. } | Word::Refused { .. }) | None => {
            CommandEnd::SessionEnded { reason: None }
        }
    }
}

async fn drain(outputs: &mut [Output<'_>; 2], to: &mut Out) -> Result<(), tungstenite::Error> {
    for output in outputs {
        let mut sent = 0;
        while sent < LEFT_BEHIND
            && let Some(message) = output.rest()
        {
            sent += message.len();
            to.send(message).await?;
        }
    }
    Ok(())
}

/// Takes in what the client says, until it leaves.
async fn listen(
    from: &mut SplitStream<Socket>,
    feed: mpsc::Sender<Bytes>,
    stdin: Stdin,
    terminal: Option<&Stream>,
) -> CommandEnd {
    let misused = |message: &str| CommandEnd::Misused {
        message: message.to_owned(),
    };
    let mut feed = (stdin == Stdin::Open).then_some(feed);
    loop {
        let message = match from.next().await {
            Some(Ok(Message::Binary(message))) => message,
            // The former is answered by reading on.
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Text(_) | Message::Frame(_))) => return misused("messages are binary"),
            Some(Err(tungstenite::Error::Capacity(error))) => return misused(&error.to_string()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return CommandEnd::ClientLeft,
        };
        match FromClient::parse(message) {
            Ok(FromClient::Stdin(bytes)) => match &feed {
                // A command that reads no more does not miss it.
                Some(feed) => drop(feed.send(bytes).await),
                None => return misused("stdin was not asked for, or is closed"),
            },
            Ok(FromClient::StdinEnds) => feed = None,
            Ok(FromClient::Resize(size)) => {
                if let Some(terminal) = terminal {
                    // It fails where the last program has just gone.
                    let _ = terminal::resize(terminal.as_fd(), size);
                }
            }
            Err(unknown) => return misused(&unknown.to_string()),
        }
    }
}

/// Writes stdin, and closes it where it ends.
async fn write(input: Input<'_>, mut fed: mpsc::Receiver<Bytes>) -> Infallible {
    let to = match &input {
        Input::None => None,
        Input::Pipe(pipe) => Some(pipe),
        Input::Terminal(terminal) => Some(*terminal),
    };
    if let Some(to) = to {
        let written = async {
            while let Some(bytes) = fed.recv().await {
                to.write_all(&bytes).await?;
            }
            match input {
                Input::Terminal(_) => to.write_all(END_OF_INPUT).await,
                Input::Pipe(_) | Input::None => Ok(()),
            }
        };
        // An error means that nobody reads there any more.
        let _: io::Result<()> = written.await;
    }
    drop((input, fed));
    std::future::pending().await
}

/// The rest of the output, the status, and a close that both sides have seen.
async fn farewell(
    end: &CommandEnd,
    outputs: &mut [Output<'_>; 2],
    to: &mut Out,
    from: &mut SplitStream<Socket>,
) -> Result<(), tungstenite::Error> {
    let (code, reason) = match end {
        CommandEnd::Misused { message } => (CloseCode::Policy, message.as_str()),
        CommandEnd::SessionEnded { .. } => (CloseCode::Away, "the session has ended"),
        CommandEnd::HerdEnds => (CloseCode::Away, "herd is ending"),
        CommandEnd::Revoked => (CloseCode::Policy, "the key may not do this any more"),
        _ => (CloseCode::Normal, ""),
    };
    drain(outputs, to).await?;
    if let Ok(status) = channels::status(&ExecEnd::from(end.clone())) {
        to.feed(Message::Binary(status)).await?;
    }
    let reason = reason.into();
    to.send(Message::Close(Some(CloseFrame { code, reason }))).await?;
    // A socket that is closed with something unread in it may take back what the other side has not read.
    while let Some(Ok(_)) = from.next().await {}
    Ok(())
}
