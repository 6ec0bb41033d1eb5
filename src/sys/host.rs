//! How busy this host and this process are (proc_meminfo(5), proc_loadavg(5), proc_pressure(5)).

use procfs::process::{LimitValue, Process};
use procfs::{CpuPressure, Current, LoadAverage, Meminfo, MemoryPressure};

/// What is left of the host; `None` where the kernel does not tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostLoad {
    /// Bytes.
    pub memory_available: Option<u64>,
    pub memory_total: Option<u64>,
    pub cpus: usize,
    /// Of the last minute.
    pub load_average: Option<f64>,
    /// Percent of the last ten seconds in which some process waited.
    pub memory_some: Option<f64>,
    pub cpu_some: Option<f64>,
}

impl HostLoad {
    pub fn read() -> Self {
        let memory = Meminfo::current().ok();
        Self {
            memory_available: memory.as_ref().and_then(|memory| memory.mem_available),
            memory_total: memory.map(|memory| memory.mem_total),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            load_average: LoadAverage::current().ok().map(|load| hundredths(load.one)),
            memory_some: MemoryPressure::current()
                .ok()
                .map(|pressure| hundredths(pressure.some.avg10)),
            cpu_some: CpuPressure::current()
                .ok()
                .map(|pressure| hundredths(pressure.some.avg10)),
        }
    }
}

/// As the kernel writes them, with two digits.
fn hundredths(number: f32) -> f64 {
    (f64::from(number) * 100.0).round() / 100.0
}

/// Bytes available without swapping, and there at all. `None`: the kernel does not tell.
pub fn available_memory() -> Option<(u64, u64)> {
    let memory = Meminfo::current().ok()?;
    Some((memory.mem_available?, memory.mem_total))
}

/// What this process uses; `None` where the kernel does not tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OwnUse {
    /// Bytes.
    pub resident: Option<u64>,
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
    /// Processor time, seconds.
    pub cpu_seconds: Option<f64>,
}

impl OwnUse {
    pub fn read() -> Self {
        let process = Process::myself().ok();
        let process = process.as_ref();
        let stat = process.and_then(|process| process.stat().ok());
        let limits = process.and_then(|process| process.limits().ok());
        let count = |count: usize| u64::try_from(count).ok();
        Self {
            resident: stat.as_ref().map(|stat| stat.rss * procfs::page_size()),
            open_fds: process
                .and_then(|process| process.fd_count().ok())
                .and_then(count),
            max_fds: limits.and_then(|limits| match limits.max_open_files.soft_limit {
                LimitValue::Unlimited => None,
                LimitValue::Value(most) => Some(most),
            }),
            cpu_seconds: stat
                .map(|stat| (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linux_host_tells_its_memory_and_load() {
        let load = HostLoad::read();
        assert!(load.memory_available.unwrap() <= load.memory_total.unwrap());
        assert!(load.load_average.unwrap() >= 0.0);
        let own = OwnUse::read();
        assert!(own.resident.unwrap() > 0 && own.open_fds.unwrap() <= own.max_fds.unwrap());
    }
}
