//! A closed loop over HTTP/2: few connections, many streams on each.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

use super::Target;
use super::closed::Done;

/// Runs unobserved for `warm`, then for `duration` between two calls of `observe`. Returns what was done in between,
/// and what was observed.
pub(crate) fn run<T>(
    target: Target,
    (connections, streams): (usize, usize),
    (warm, duration): (Duration, Duration),
    observe: impl Fn() -> anyhow::Result<T>,
) -> anyhow::Result<(Done, T, T)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let done = Rc::new(Cell::new(0_u64));
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let (client, connection) = h2::client::handshake(connect(target.addr).await?).await?;
            tasks.spawn_local(async move { connection.await.context("an HTTP/2 connection ended") });
            for _ in 0..streams {
                tasks.spawn_local(requests(client.clone(), target, Rc::clone(&done)));
            }
        }
        let measured = async {
            tokio::time::sleep(warm).await;
            let before = (done.get(), Instant::now(), observe()?);
            tokio::time::sleep(duration).await;
            let after = (done.get(), Instant::now(), observe()?);
            let done = Done {
                requests: after.0 - before.0,
                took: after.1 - before.1,
            };
            Ok((done, before.2, after.2))
        };
        tokio::select! {
            measured = measured => measured,
            Some(ended) = tasks.join_next() => {
                ended??;
                anyhow::bail!("the proxy ended an HTTP/2 connection")
            }
        }
    })
}

async fn connect(addr: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One stream after the other, until this is dropped.
async fn requests(client: SendRequest<Bytes>, target: Target, done: Rc<Cell<u64>>) -> anyhow::Result<()> {
    loop {
        let request = Request::get(format!("http://{}/small", target.addr))
            .header("user-agent", "targets")
            .header("accept", "*/*")
            .header("x-session-id", target.session)
            .body(())?;
        let mut ready = client.clone().ready().await?;
        let (answer, _) = ready.send_request(request, true)?;
        let answer = answer.await?;
        anyhow::ensure!(answer.status() == 200, "status {}", answer.status());
        let mut body = answer.into_body();
        while let Some(piece) = body.data().await {
            body.flow_control().release_capacity(piece?.len())?;
        }
        done.set(done.get() + 1);
    }
}
