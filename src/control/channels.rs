//! What the WebSocket of a command in a session carries, read and written by both of its ends. The first byte of each
//! message says what the rest is; the numbers are those of Kubernetes' `v5.channel.k8s.io`.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::views::ExecEnd;
use crate::sys::terminal::Size;

/// The subprotocol's name (RFC 6455, 1.9).
pub const PROTOCOL: &str = "herd.exec.v1";

/// Largest message in either direction, bytes.
pub const MAX_MESSAGE: usize = 256 << 10;

const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// From whoever wants the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromClient {
    Stdin(Bytes),
    /// No more of it.
    StdinEnds,
    Resize(Size),
}

/// From herd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromHerd {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The last.
    Status(ExecEnd),
}

/// A message that is none of these; the text says what it would have to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("a message begins with the number of its channel")]
    Empty,
    #[error("channel {0} is not for this direction")]
    Channel(u8),
    #[error("a new size is {{\"cols\": 1-65535, \"rows\": 1-65535}}")]
    Size,
    #[error("only stdin can be closed: the bytes 255 and 0")]
    Close,
    #[error("the status is not understood")]
    Status,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSize {
    cols: std::num::NonZeroU16,
    rows: std::num::NonZeroU16,
}

impl FromClient {
    pub fn parse(mut message: Bytes) -> Result<Self, Unknown> {
        let channel = *message.first().ok_or(Unknown::Empty)?;
        let rest = message.split_off(1);
        match channel {
            STDIN => Ok(Self::Stdin(rest)),
            RESIZE => {
                let size: NewSize = serde_json::from_slice(&rest).map_err(|_| Unknown::Size)?;
                Ok(Self::Resize(Size {
                    cols: size.cols.get(),
                    rows: size.rows.get(),
                }))
            }
            CLOSE if *rest == [STDIN] => Ok(Self::StdinEnds),
            CLOSE => Err(Unknown::Close),
            other => Err(Unknown::Channel(other)),
        }
    }

    pub fn message(&self) -> Bytes {
        match self {
            Self::Stdin(bytes) => framed(STDIN, bytes),
            Self::StdinEnds => Bytes::from_static(&[CLOSE, STDIN]),
            Self::Resize(Size { cols, rows }) => {
                framed(RESIZE, format!("{{\"cols\":{cols},\"rows\":{rows}}}").as_bytes())
            }
        }
    }
}

impl FromHerd {
    pub fn parse(mut message: Bytes) -> Result<Self, Unknown> {
        let channel = *message.first().ok_or(Unknown::Empty)?;
        let rest = message.split_off(1);
        match channel {
            STDOUT => Ok(Self::Stdout(rest)),
            STDERR => Ok(Self::Stderr(rest)),
            STATUS => serde_json::from_slice(&rest)
                .map(Self::Status)
                .map_err(|_| Unknown::Status),
            other => Err(Unknown::Channel(other)),
        }
    }
}

/// herd's last message. What a command writes goes out as it was read: see [`super::exec`].
pub(super) fn status(end: &ExecEnd) -> serde_json::Result<Bytes> {
    Ok(framed(STATUS, &serde_json::to_vec(end)?))
}

fn framed(channel: u8, rest: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(1 + rest.len());
    message.put_u8(channel);
    message.put_slice(rest);
    message.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::views::ExecOutcome;

    #[test]
    fn what_a_client_writes_herd_reads() {
        let size = Size { cols: 80, rows: 24 };
        for said in [
            FromClient::Stdin(Bytes::from_static(b"\0typed")),
            FromClient::Stdin(Bytes::new()),
            FromClient::StdinEnds,
            FromClient::Resize(size),
        ] {
            assert_eq!(FromClient::parse(said.message()), Ok(said));
        }
    }

    #[test]
    fn what_herd_writes_a_client_reads() {
        let end = ExecEnd {
            outcome: ExecOutcome::Exited,
            exit_code: Some(3),
            signal: None,
            reason: None,
            detail: "exit code 3".to_owned(),
        };
        let read = FromHerd::parse(status(&end).unwrap());
        assert_eq!(read, Ok(FromHerd::Status(end)));
        let read = FromHerd::parse(Bytes::from_static(b"\x02oops"));
        assert_eq!(read, Ok(FromHerd::Stderr(Bytes::from_static(b"oops"))));
    }

    #[test]
    fn a_message_of_another_shape_is_told_what_it_would_have_to_be() {
        for (message, wrong) in [
            (&b""[..], Unknown::Empty),
            (b"\x01out", Unknown::Channel(1)),
            (b"\x04{\"cols\":0,\"rows\":1}", Unknown::Size),
            (b"\x04{\"cols\":1}", Unknown::Size),
            (b"\x04{\"cols\":1,\"rows\":70000}", Unknown::Size),
            (b"\xff", Unknown::Close),
            (b"\xff\x01", Unknown::Close),
        ] {
            assert_eq!(FromClient::parse(Bytes::from_static(message)), Err(wrong));
        }
        assert_eq!(
            FromHerd::parse(Bytes::from_static(b"\x03{")),
            Err(Unknown::Status)
        );
    }
}
