use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::task::{JoinSet, LocalSet};

use super::*;

const TICK: Duration = Duration::from_millis(20);
/// Nothing is decided by it.
const CAP: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Good,
    Bad,
    Never,
}

/// A worker that answers as it was told to, and then no more.
#[derive(Clone)]
struct Worker {
    path: Arc<PathBuf>,
    /// Asked so often; and most at the same time.
    seen: Rc<RefCell<(usize, usize)>>,
}

fn worker(dir: &tempfile::TempDir, tasks: &mut JoinSet<()>, replies: &[Reply]) -> Worker {
    let path = Arc::new(dir.path().join("s"));
    let listener = UnixListener::bind(&*path).unwrap();
    let worker = Worker {
        path,
        seen: Rc::default(),
    };
    let (seen, mut replies) = (Rc::clone(&worker.seen), VecDeque::from(replies.to_vec()));
    tasks.spawn_local(async move {
        let mut asking = JoinSet::new();
        let open = Rc::new(RefCell::new(0_usize));
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let reply = replies.pop_front().unwrap_or(Reply::Never);
            *open.borrow_mut() += 1;
            let mut seen = seen.borrow_mut();
            *seen = (seen.0 + 1, seen.1.max(*open.borrow()));
            let open = Rc::clone(&open);
            asking.spawn_local(async move {
                let mut head = [0; 1024];
                let read = stream.read(&mut head).await.unwrap();
                assert!(head[..read].starts_with(b"GET /alive HTTP/1.1\r\n"));
                let answer: &[u8] = match reply {
                    Reply::Good => b"HTTP/1.1 204 No Content\r\n\r\n",
                    Reply::Bad => b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
                    Reply::Never => b"",
                };
                stream.write_all(answer).await.unwrap();
                // Until herd hangs up.
                while matches!(stream.read(&mut head).await, Ok(1..)) {}
                *open.borrow_mut() -= 1;
            });
        }
    });
    worker
}

fn probes(worker: &Worker) -> Probes {
    Probes {
        endpoint: Endpoint::Unix(Arc::clone(&worker.path)),
        protocol: Protocol::Http1,
        liveness: Liveness {
            path: "/alive".to_owned(),
            interval: TICK,
            timeout: TICK,
            failures: 3,
        },
        pulse: Arc::default(),
    }
}

async fn strikes(events: &mut mpsc::Receiver<Event>, of: usize) -> Vec<(u32, String)> {
    let mut strikes = Vec::new();
    while strikes.len() < of {
        match tokio::time::timeout(CAP, events.recv()).await.expect("a failure") {
            Some(Event::ProbeFailed { strike, what, .. }) => strikes.push((strike, what)),
            other => panic!("{other:?}"),
        }
    }
    strikes
}

#[tokio::test]
async fn failures_count_only_in_a_row_and_the_last_ends_the_watch() {
    use Reply::{Bad, Good, Never};
    let dir = tempfile::tempdir().unwrap();
    let mut tasks = JoinSet::new();
    let scene = async {
        let worker = worker(&dir, &mut tasks, &[Good, Bad, Never, Good, Bad, Bad, Never]);
        let (events, mut heard) = mpsc::channel(9);
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let watch = watch(WorkerId(1), probes(&worker), permits, events);
        let (strikes, ()) = tokio::join!(strikes(&mut heard, 5), watch);
        let numbers: Vec<u32> = strikes.iter().map(|(strike, _)| *strike).collect();
        assert_eq!(numbers, [1, 2, 1, 2, 3]);
        assert_eq!(strikes[0].1, "GET /alive answered 503 Service Unavailable");
        assert_eq!(strikes[1].1, "GET /alive was not answered within 20ms");
        assert!(heard.recv().await.is_none(), "nobody is asked any more");
        assert_eq!(worker.seen.borrow().0, 7);
    };
    LocalSet::new().run_until(scene).await;
}

#[tokio::test]
async fn nobody_is_asked_while_bytes_flow_either_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut tasks = JoinSet::new();
    let scene = async {
        let worker = worker(&dir, &mut tasks, &[]);
        let (events, mut heard) = mpsc::channel(9);
        let probes = probes(&worker);
        let pulse = Arc::clone(&probes.pulse);
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let mut watching = JoinSet::new();
        // Far enough apart that a byte is noted before the turn after the one that took the last.
        let liveness = Liveness {
            interval: 10 * TICK,
            ..probes.liveness.clone()
        };
        pulse.said();
        watching.spawn_local(watch(WorkerId(1), Probes { liveness, ..probes }, permits, events));
        for turn in 0..5 {
            let flow = async {
                while pulse.0.load(Ordering::Relaxed) != 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(CAP, flow).await.expect("a turn");
            match turn % 2 {
                0 => pulse.sent(),
                _ => pulse.said(),
            }
            assert_eq!(worker.seen.borrow().0, 0, "asked although bytes flowed");
        }
        // They stop.
        assert_eq!(strikes(&mut heard, 1).await[0].0, 1);
    };
    LocalSet::new().run_until(scene).await;
}

#[tokio::test]
async fn what_flows_during_a_probe_is_no_failure_and_no_proof_unless_it_comes_from_the_worker() {
    let dir = tempfile::tempdir().unwrap();
    let mut tasks = JoinSet::new();
    let scene = async {
        let worker = worker(&dir, &mut tasks, &[]);
        let probes = probes(&worker);
        let permits = Semaphore::new(AT_ONCE);
        for (note, finding) in [
            (Pulse::sent as fn(&Pulse), Finding::Busy),
            (Pulse::said, Finding::Alive),
        ] {
            let asked = worker.seen.borrow().0;
            let flow = async {
                while worker.seen.borrow().0 == asked {
                    tokio::task::yield_now().await;
                }
                note(&probes.pulse);
            };
            let (found, ()) = tokio::join!(probes.look(&permits), flow);
            assert_eq!(found, finding);
        }
    };
    LocalSet::new().run_until(scene).await;
}

#[tokio::test]
async fn only_so_many_are_asked_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut tasks = JoinSet::new();
    let scene = async {
        let worker = worker(&dir, &mut tasks, &[]);
        let (events, mut heard) = mpsc::channel(99);
        let permits = Arc::new(Semaphore::new(2));
        let mut watching = JoinSet::new();
        for number in 0..8 {
            let (permits, events) = (Arc::clone(&permits), events.clone());
            watching.spawn_local(watch(WorkerId(number), probes(&worker), permits, events));
        }
        assert_eq!(strikes(&mut heard, 24).await.len(), 24);
        // The worker may see the next before it sees that herd has hung up.
        assert!((2..=4).contains(&worker.seen.borrow().1), "{:?}", worker.seen);
    };
    LocalSet::new().run_until(scene).await;
}

#[test]
fn workers_that_start_together_have_their_turns_at_times_spread_over_the_interval() {
    let interval = Duration::from_secs(10);
    let mut tenths = [0; 10];
    for worker in 7000..12_000 {
        let phase = phase(WorkerId(worker), interval);
        assert!(phase <= interval);
        tenths[(phase.as_secs() as usize).min(9)] += 1;
    }
    assert!(tenths.iter().all(|n| (495..=505).contains(n)), "{tenths:?}");
}
