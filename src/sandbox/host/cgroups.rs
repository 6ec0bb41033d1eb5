//! Which control groups there are, and what herd could limit with them.

use super::facts::View;
use crate::sandbox::cgroup::{Layout, Mounted, Survey};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    pub mounted: Mounted,
    /// This process's group has `cgroup.kill`. The root of a hierarchy never has, whatever the kernel.
    pub kill: bool,
    /// For each controller what a start of herd would come to.
    pub limits: Survey,
}

impl Cgroups {
    /// `limits` come from [`survey`](crate::sandbox::cgroup::survey), which start and check go by as well: herd has one
    /// opinion of where it may make groups.
    pub(super) fn read(view: &View<'_>, limits: Survey) -> Self {
        let text = |path: &str| view.text(path).unwrap_or_default();
        let layout = Layout::parse(&text("proc/self/cgroup"), &text("proc/self/mountinfo"));
        let has_kill = |group: &std::path::Path| view.exists(&format!("{}/cgroup.kill", group.display()));
        Self {
            mounted: layout.mounted,
            kill: layout.unified.as_deref().is_some_and(has_kill),
            limits,
        }
    }
}
