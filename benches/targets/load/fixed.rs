//! An open loop: requests at a fixed rate, whatever becomes of earlier ones. Each is timed from the moment at which
//! it should have been sent, so that waiting for a free connection, or for this generator, counts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::closed::{Connection, wait};
use super::{PATIENCE, Target};

const TIMER: u64 = u64::MAX;

/// Latencies in µs of requests sent at `rate` per second for this long, over at most so many connections.
pub(crate) fn latencies(
    target: Target,
    path: &str,
    (rate, connections): (u32, usize),
    duration: Duration,
) -> anyhow::Result<Vec<f64>> {
    let request = target.get(path);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut open = Vec::with_capacity(connections);
    for index in 0..connections {
        let connection = Connection::new(target.connect()?)?;
        epoll.add(
            &connection.stream,
            EpollEvent::new(EpollFlags::EPOLLIN, index as u64),
        )?;
        open.push((connection, Instant::now()));
    }
    let interval = Duration::from_secs(1) / rate;
    let timer = TimerFd::new(
        ClockId::CLOCK_MONOTONIC,
        TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
    )?;
    timer.set(
        Expiration::Interval(TimeSpec::from_duration(interval)),
        TimerSetTimeFlags::empty(),
    )?;
    epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;

    let mut idle: VecDeque<usize> = (0..connections).collect();
    let mut due: VecDeque<Instant> = VecDeque::new();
    let mut latencies = Vec::new();
    let mut events = [EpollEvent::empty(); 64];
    let began = Instant::now();
    let all = (duration.as_secs_f64() * f64::from(rate)) as u32;
    let mut intended = 0;
    while latencies.len() < all as usize {
        anyhow::ensure!(
            began.elapsed() < duration + PATIENCE,
            "answers to {rate} requests/s do not keep up"
        );
        let ready = wait(&epoll, &mut events, Duration::from_millis(100))?;
        for event in &events[..ready] {
            if event.data() == TIMER {
                // Waits for nothing: the timer is readable. Takes it back to unreadable.
                timer.wait()?;
                continue;
            }
            let index = event.data() as usize;
            let (connection, since) = &mut open[index];
            if connection.receive()?.is_some() {
                latencies.push(since.elapsed().as_secs_f64() * 1e6);
                idle.push_back(index);
            }
        }
        while intended < all && began + interval * intended <= Instant::now() {
            due.push_back(began + interval * intended);
            intended += 1;
        }
        while let (Some(&index), Some(&at)) = (idle.front(), due.front()) {
            idle.pop_front();
            due.pop_front();
            open[index].1 = at;
            open[index].0.send(&request)?;
        }
    }
    Ok(latencies)
}
