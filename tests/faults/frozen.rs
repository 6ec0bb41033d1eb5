//! A process that cannot die yet.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::running::poll;
use crate::scene::PATIENCE;

/// A process that no signal ends: in a group of the freezer of version 1, whose processes do not die.
#[derive(Debug)]
pub(crate) struct Frozen {
    group: PathBuf,
}

impl Frozen {
    pub(crate) fn freeze(pid: i32) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = freezer().expect("only cases with it are run");
        let group = base.join(format!("faults-{}-{number}", std::process::id()));
        std::fs::create_dir(&group).unwrap();
        let this = Self { group };
        std::fs::write(this.group.join("cgroup.procs"), pid.to_string()).unwrap();
        std::fs::write(this.group.join("freezer.state"), "FROZEN").unwrap();
        poll("it is frozen", || match this.state() {
            state if state == "FROZEN" => Ok(()),
            other => Err(other),
        });
        this
    }

    fn state(&self) -> String {
        let text = std::fs::read_to_string(self.group.join("freezer.state")).unwrap();
        text.trim().to_owned()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = std::fs::write(self.group.join("freezer.state"), "THAWED");
        let cap = Instant::now() + PATIENCE;
        // Whoever was in it has to die first.
        while std::fs::remove_dir(&self.group).is_err() && Instant::now() < cap {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Where this host has the freezer of version 1, if root may use it.
pub(crate) fn freezer() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| {
        line.contains(" - cgroup ")
            && line
                .rsplit(' ')
                .next()
                .is_some_and(|options| options.split(',').any(|option| option == "freezer"))
    })?;
    let path = PathBuf::from(line.split(' ').nth(4)?);
    nix::unistd::geteuid().is_root().then_some(path)
}
