//! Why no worker could be made at all.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::launcher::SpawnError;

/// Longest address of a UNIX socket, bytes, without the final NUL (unix(7)).
pub(super) const MAX_SOCKET_PATH: usize = 107;

/// What herd, or this host, has not got for a worker.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lacking {
    #[error("cannot make a pipe for the worker: {0}")]
    Pipe(#[source] io::Error),
    #[error(
        "the worker's socket {} would be {length} bytes long and the kernel takes {MAX_SOCKET_PATH}; use a shorter \
         --state-dir",
        socket.display()
    )]
    ShortPath { socket: PathBuf, length: usize },
    #[error(transparent)]
    Keeper(#[from] SpawnError),
    #[error("the kind has no sandbox")]
    Plan,
    #[error("sandboxes need namespaces, and there are none")]
    Namespaces,
    #[error(
        "all {of} user ids for sandboxes are in use; enlarge this user's ranges in /etc/subuid and /etc/subgid"
    )]
    Ids { of: u32 },
    /// In its keeper's words.
    #[error("{0}")]
    Sandbox(String),
    #[error("the sandbox was not made within {0:?}")]
    Time(Duration),
    #[error("cannot tell the sandbox what to run: {0}")]
    Ear(#[source] io::Error),
}
