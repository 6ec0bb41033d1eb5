use std::os::unix::net::UnixStream as StdUnix;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::*;

impl Side for UnixStream {
    fn socket(&self) -> Option<Socket<'_>> {
        Some(Socket::Unix(self))
    }
}

/// A flow between two pairs of sockets whose outer ends are the test's.
struct Bench {
    flow: Flow,
    source: UnixStream,
    from: UnixStream,
    to: UnixStream,
    sink: UnixStream,
}

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = StdUnix::pair().unwrap();
    for end in [&a, &b] {
        end.set_nonblocking(true).unwrap();
        let socket = socket2::SockRef::from(end);
        socket.set_send_buffer_size(1 << 20).unwrap();
    }
    (UnixStream::from_std(a).unwrap(), UnixStream::from_std(b).unwrap())
}

impl Bench {
    fn new(frames: Option<Frames>) -> Self {
        let ((source, from), (to, sink)) = (pair(), pair());
        let flow = Flow {
            frames,
            ..Flow::default()
        };
        Self {
            flow,
            source,
            from,
            to,
            sink,
        }
    }

    /// One turn of the flow; whether it has ended.
    async fn turn(&mut self) -> bool {
        let Self { flow, from, to, .. } = self;
        std::future::poll_fn(|cx| match flow.poll(cx, from, to) {
            Poll::Ready(Ok(())) => Poll::Ready(true),
            Poll::Ready(Err(_)) => panic!("the flow broke"),
            Poll::Pending => Poll::Ready(false),
        })
        .await
    }

    /// Passes `bytes`, reading them in pieces of odd sizes; whether any were spliced.
    async fn pass(&mut self, bytes: &[u8]) -> bool {
        let (mut sent, mut got, before) = (0, Vec::with_capacity(bytes.len()), self.flow.spliced);
        let mut buffer = vec![0; 70_001];
        while got.len() < bytes.len() {
            while let Ok(n) = self.source.try_write(&bytes[sent..]) {
                sent += n;
                if sent == bytes.len() {
                    break;
                }
            }
            assert!(!self.turn().await, "the flow ended early");
            while let Ok(n) = self.sink.try_read(&mut buffer[..1 + got.len() % 70_001]) {
                got.extend_from_slice(&buffer[..n]);
            }
            tokio::task::yield_now().await;
        }
        assert!(got == bytes, "other bytes came out than went in");
        self.flow.spliced > before
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut x = 0x2545_f491_4f6c_dd1d_u64;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect()
}

fn frame(len: usize) -> Vec<u8> {
    let mut frame = vec![0x82, 127];
    frame.extend_from_slice(&(len as u64).to_be_bytes());
    frame.extend(noise(len));
    frame
}

#[tokio::test]
async fn bulk_is_spliced_and_what_comes_after_is_copied() {
    let mut bench = Bench::new(None);
    assert!(bench.pass(&noise(8 << 20)).await, "bulk was only copied");
    bench.pass(b"a word").await;
    assert!(
        matches!(bench.flow.manner, Manner::Copying(0)),
        "{:?}",
        bench.flow.manner
    );
    assert!(!bench.pass(b"another").await, "a word was spliced");
}

#[tokio::test]
async fn an_end_is_passed_on_after_bulk() {
    let mut bench = Bench::new(None);
    bench.pass(&noise(4 << 20)).await;
    bench.source.shutdown().await.unwrap();
    std::future::poll_fn(|cx| bench.flow.poll(cx, &mut bench.from, &mut bench.to))
        .await
        .ok()
        .expect("the flow broke");
    assert!(
        matches!(bench.flow.manner, Manner::Copying(_)),
        "{:?}",
        bench.flow.manner
    );
}

#[tokio::test]
async fn of_a_websocket_only_large_payloads_are_spliced_and_every_boundary_is_seen() {
    let mut bench = Bench::new(Some(Frames::default()));
    let small: Vec<u8> = std::iter::repeat_n(frame(30_000), 100).flatten().collect();
    assert!(!bench.pass(&small).await, "small frames were spliced");
    let mut spliced = false;
    for len in [1 << 20, 3_333_333, 65_536, 8 << 20] {
        spliced |= bench.pass(&frame(len)).await;
        let frames = bench.flow.frames.as_ref().unwrap();
        assert!(frames.may_close(), "no boundary after a frame of {len}");
    }
    assert!(spliced, "large frames were only copied");
    let row: Vec<u8> = std::iter::repeat_n(frame(300_001), 20).flatten().collect();
    bench.pass(&row).await;
    assert!(bench.flow.frames.as_ref().unwrap().may_close());
}

#[tokio::test]
async fn what_a_slow_reader_left_in_the_conduit_can_be_taken_back() {
    let mut bench = Bench::new(None);
    let bytes = noise(8 << 20);
    let (mut sent, mut idle) = (0, 0);
    // Until neither side takes any more.
    while idle < 3 {
        let before = sent;
        while let Ok(n) = bench.source.try_write(&bytes[sent..]) {
            sent += n;
        }
        bench.turn().await;
        tokio::task::yield_now().await;
        idle = if sent == before { idle + 1 } else { 0 };
    }
    let left = bench.flow.take_left().unwrap();
    assert!(!left.is_empty(), "{:?}", bench.flow.manner);
    let (mut got, mut buffer) = (Vec::new(), vec![0; 65_536]);
    bench.sink.readable().await.unwrap();
    while let Ok(n) = bench.sink.try_read(&mut buffer) {
        got.extend_from_slice(&buffer[..n]);
    }
    got.extend_from_slice(&left);
    assert!(
        got == bytes[..got.len()],
        "the bytes taken back are not the next ones"
    );
}

/// A client over TLS that does not read: its end cannot be told to it.
struct Deaf(UnixStream);

impl AsyncRead for Deaf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl Side for Deaf {
    fn socket(&self) -> Option<Socket<'_>> {
        None
    }
}

#[tokio::test]
async fn a_client_that_cannot_be_told_of_the_workers_end_keeps_nothing_waiting() {
    let ((mut client, from_client), (mut worker, from_worker)) = (pair(), pair());
    let mut tunnel = Tunnel {
        client: Deaf(from_client),
        worker: from_worker,
        up: Flow::default(),
        down: Flow::default(),
        halves: Halves {
            up: Half::Open,
            down: Half::Open,
        },
    };
    worker.shutdown().await.unwrap();
    let event = std::future::poll_fn(|cx| tunnel.poll(cx)).await;
    assert!(matches!(event, Event::WorkerDone));
    tunnel.halves.down = Half::Ending;

    client.write_all(b"still here").await.unwrap();
    let mut word = [0; 10];
    tokio::select! {
        _ = std::future::poll_fn(|cx| tunnel.poll(cx)) => panic!("nothing has ended"),
        read = worker.read_exact(&mut word) => assert!(read.is_ok() && &word == b"still here"),
    }
    client.shutdown().await.unwrap();
    let event = std::future::poll_fn(|cx| tunnel.poll(cx)).await;
    assert!(matches!(event, Event::ClientDone));
}
