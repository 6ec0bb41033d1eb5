//! `GET /v1/pressure`.

use super::views::{AdmissionPressure, HerdPressure, HostPressure, PoolPressure, Pressure};
use crate::driver::PoolsView;
use crate::sys::host::{HostLoad, OwnUse};

pub(super) fn pressure(pools: PoolsView) -> Pressure {
    let (host, own) = (HostLoad::read(), OwnUse::read());
    let admission = pools.memory.map(|memory| AdmissionPressure {
        memory_left_bytes: memory.left,
        memory_total_bytes: memory.total,
    });
    Pressure {
        admission,
        draining: pools.draining,
        workers: pools.kinds.into_iter().map(PoolPressure::from).collect(),
        herd: HerdPressure {
            resident_memory_bytes: own.resident,
            open_fds: own.open_fds,
            max_fds: own.max_fds,
        },
        host: HostPressure {
            memory_available_bytes: host.memory_available,
            memory_total_bytes: host.memory_total,
            cpus: host.cpus,
            load_average: host.load_average,
            memory_some_percent: host.memory_some,
            cpu_some_percent: host.cpu_some,
        },
    }
}
