//! What trees of processes use, by one look at all of `/proc` (proc_pid_stat(5), proc_pid_statm(5)).

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use procfs::ProcResult;
use procfs::process::{Process, all_processes};

/// What a process and its descendants use.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    pub processes: usize,
    /// Resident memory that is not shared, bytes.
    pub memory: u64,
    /// Processor time, of descendants that were waited for too.
    pub cpu: Duration,
}

/// Every process that could be seen, with what its tree uses. The processes come and go while they are looked at:
/// good for reports, not for decisions.
#[derive(Debug, Default)]
pub struct Forest(HashMap<i32, Usage>);

/// Parents that are followed, so that a loop of reused numbers ends.
const DEEPEST: usize = 64;

impl Forest {
    /// Blocks for some microseconds per process of the host.
    pub fn look() -> io::Result<Self> {
        let all = all_processes().map_err(io::Error::other)?;
        let one = |process: ProcResult<Process>| {
            let process = process.ok()?;
            // It may have ended meanwhile.
            let (parent, usage) = look_at(&process).ok()?;
            Some((process.pid(), parent, usage))
        };
        Ok(Self::grow(all.filter_map(one)))
    }

    /// `None`: there is no such process, or it cannot be seen.
    pub fn of(&self, root: i32) -> Option<Usage> {
        self.0.get(&root).copied()
    }

    /// From (process, parent, what it uses itself).
    fn grow(processes: impl Iterator<Item = (i32, i32, Usage)>) -> Self {
        let own: HashMap<i32, (i32, Usage)> = processes
            .map(|(pid, parent, usage)| (pid, (parent, usage)))
            .collect();
        let mut trees: HashMap<i32, Usage> = HashMap::with_capacity(own.len());
        for (pid, (_, usage)) in &own {
            let mut above = *pid;
            for _ in 0..DEEPEST {
                let Some((parent, _)) = own.get(&above) else { break };
                let tree = trees.entry(above).or_default();
                tree.processes += usage.processes;
                tree.memory += usage.memory;
                tree.cpu += usage.cpu;
                above = *parent;
            }
        }
        Self(trees)
    }
}

fn look_at(process: &Process) -> ProcResult<(i32, Usage)> {
    let stat = process.stat()?;
    let memory = process.statm()?;
    let waited_for = u64::try_from(stat.cutime.saturating_add(stat.cstime)).unwrap_or(0);
    let ticks = stat.utime + stat.stime + waited_for;
    let usage = Usage {
        processes: 1,
        memory: memory.resident.saturating_sub(memory.shared) * procfs::page_size(),
        cpu: Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64),
    };
    Ok((stat.ppid, usage))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn using(memory: u64) -> Usage {
        Usage {
            processes: 1,
            memory,
            cpu: Duration::from_millis(memory),
        }
    }

    #[test]
    fn a_tree_uses_what_its_members_do_and_no_more() {
        let forest = Forest::grow(
            [
                (1, 0, using(1)),
                (10, 1, using(10)),
                (11, 10, using(100)),
                (12, 11, using(1000)),
                (20, 1, using(5)),
            ]
            .into_iter(),
        );
        let tree = forest.of(10).unwrap();
        assert_eq!((tree.processes, tree.memory), (3, 1110));
        assert_eq!(tree.cpu, Duration::from_millis(1110));
        assert_eq!(forest.of(1).unwrap().processes, 5);
        assert_eq!(forest.of(99), None);
    }

    #[test]
    fn numbers_that_go_round_in_a_circle_end() {
        let forest = Forest::grow([(1, 2, using(1)), (2, 1, using(1))].into_iter());
        assert!(forest.of(1).is_some());
    }

    #[test]
    fn this_process_is_seen() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let usage = Forest::look().unwrap().of(pid).unwrap();
        assert!(usage.processes >= 1 && usage.memory > 0, "{usage:?}");
    }
}
