//! Pipes whose other end is somebody else's.

use std::future::pending;
use std::os::fd::AsFd;

use tokio::io::Interest;

/// Resolves when nobody can read any more what is written here: at a pipe's or a socket's end. Never at a file's. Needs a
/// tokio runtime with I/O.
pub async fn unread(end: impl AsFd) {
    let Ok(end) = end.as_fd().try_clone_to_owned() else {
        return pending().await;
    };
    // What epoll(7) does not take, a file, has no reader that could leave.
    match super::fd::watched_for(end, Interest::ERROR) {
        Ok(end) if end.ready(Interest::ERROR).await.is_ok() => {}
        _ => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_pipe_is_unread_when_the_last_reader_is_gone_and_a_file_never() {
        let (reader, writer) = std::io::pipe().unwrap();
        let another = reader.try_clone().unwrap();
        let moment = Duration::from_millis(20);
        drop(reader);
        assert!(timeout(moment, unread(&writer)).await.is_err());
        drop(another);
        unread(&writer).await;
        let file = tempfile::tempfile().unwrap();
        assert!(timeout(moment, unread(&file)).await.is_err());
    }
}
