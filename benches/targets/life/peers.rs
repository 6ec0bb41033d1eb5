//! The bench's side of the jail: starts runc, crun, bubblewrap and the floor, and waits for their workers.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::json;

use super::client::Client;
use super::herd::children;
use super::tiny::Tiny;
use super::who::Who;
use super::wire::{Ask, How, Said, Sandbox, Start, now};
use crate::lab::{Lab, program};

/// As large as no worker needs, so that they are counted and never reached.
const LIMITS: [(&str, &str, &str); 3] = [
    ("memory", "memory.limit_in_bytes", "268435456"),
    ("cpu", "cpu.cfs_quota_us", "100000"),
    ("pids", "pids.max", "64"),
];
/// Of 65,536 ids each, far from herd's and everybody else's.
const FIRST_ID: u32 = 0x3000_0000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The worker, and nothing around it.
    Exec,
    Tree,
    Floor,
    FloorWithGroups,
    Bubblewrap,
    Crun,
    Runc,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Tree => "clone3 floor, bare",
            Self::Floor => "clone3 floor",
            Self::FloorWithGroups => "clone3 floor, 3 cgroups",
            Self::Bubblewrap => "bwrap",
            Self::Crun => "crun",
            Self::Runc => "runc",
        }
    }

    fn program(self) -> Option<&'static str> {
        match self {
            Self::Bubblewrap => Some("bwrap"),
            Self::Crun => Some("crun"),
            Self::Runc => Some("runc"),
            _ => None,
        }
    }
}

/// One kind of peer, run by one user, in a jail of its own.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) kind: Kind,
    who: Who,
    tiny: Tiny,
    dir: PathBuf,
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    next: u32,
    groups: Vec<PathBuf>,
}

impl Peers {
    /// `None` with a loud line if it is not here.
    pub(super) fn open(lab: &Lab, tiny: &Tiny, kind: Kind, who: Who) -> anyhow::Result<Option<Self>> {
        if let Some(name) = kind.program()
            && program(name).is_none()
        {
            lab.say(&format!("!!! {name} is not installed: unmeasured"));
            return Ok(None);
        }
        let v1 = Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists();
        if kind == Kind::FloorWithGroups && !v1 {
            lab.say("!!! the floor knows control groups of version 1 only: unmeasured");
            return Ok(None);
        }
        let dir = lab.dir(&format!("p{}{}", kind as u8, who.short()))?;
        let bench = who.program(&std::env::current_exe()?, &lab.scratch)?;
        fs::create_dir_all(dir.join("state"))?;
        who.give(&dir)?;
        who.give(&dir.join("state"))?;
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "--",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
        ]);
        command.args(["--kill-child=KILL", "--mount-proc", "--"]);
        if who != Who::Root {
            // crun refuses where it sees both versions, also to use neither; nothing here needs the second.
            let hide = "umount /sys/fs/cgroup/unified 2> /dev/null; exec \"$@\"";
            command.args(["sh", "-c", hide, "sh"]);
        }
        command.args(who.words()).arg(bench).arg("life-jail");
        if v1 && who == Who::Root {
            match kind {
                Kind::Crun => command.arg("--keep=cpu,memory,pids"),
                // It insists on device rules.
                Kind::Runc => command.arg("--keep=cpu,memory,pids,devices"),
                _ => &mut command,
            };
        }
        let log = fs::File::create(dir.join("log"))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        command.env("XDG_RUNTIME_DIR", dir.join("state"));
        #[allow(clippy::disallowed_methods, reason = "a benchmark is no herd")]
        let mut child = command.spawn().context("cannot run setpriv and unshare")?;
        let to = child.stdin.take().context("piped")?;
        let from = BufReader::new(child.stdout.take().context("piped")?);
        let mut peers = Self {
            kind,
            who,
            tiny: tiny.clone(),
            dir,
            child,
            to,
            from,
            next: 0,
            groups: Vec::new(),
        };
        match peers.hear()? {
            Heard::Said(Said::Ready) => Ok(Some(peers)),
            other => bail!("the jail said {other:?}"),
        }
    }

    /// Starts so many at once; ms from the question to each one's first answer.
    pub(super) fn start(&mut self, count: usize) -> anyhow::Result<(Vec<f64>, Vec<String>)> {
        let starts = (0..count)
            .map(|_| self.prepare())
            .collect::<anyhow::Result<Vec<_>>>()?;
        let tokens: Vec<_> = starts.iter().map(|start| start.token.clone()).collect();
        self.ask(&Ask::Start(starts))?;
        let mut began = 0;
        let mut took = Vec::new();
        while took.len() < count {
            match self.hear()? {
                Heard::Said(Said::Began { at }) => began = at,
                Heard::Listening(token) => {
                    Client::unix(&self.socket(&token))?.ask("GET", "/", "")?;
                    took.push((now() - began) as f64 / 1e6);
                }
                Heard::Said(other) => bail!("{}: {other:?}\n{}", self.kind.name(), self.log()),
            }
        }
        Ok((took, tokens))
    }

    /// Has the workers end, and waits until what was around them is gone.
    pub(super) fn end(&mut self, tokens: &[String]) -> anyhow::Result<()> {
        for token in tokens {
            Client::unix(&self.socket(token))?.send("GET", "/exit", "")?;
        }
        for _ in tokens {
            self.until_gone()?;
        }
        self.clear(tokens)
    }

    /// Kills the tree of a floor; ms until it was reaped.
    pub(super) fn kill(&mut self, token: &str) -> anyhow::Result<f64> {
        self.ask(&Ask::Kill {
            token: token.to_owned(),
        })?;
        let took = self.until_gone()?.context("it ended by itself")?;
        self.clear(&[token.to_owned()])?;
        Ok(took as f64 / 1e6)
    }

    /// The processes of all trees of the floor.
    pub(super) fn trees(&self) -> anyhow::Result<Vec<i32>> {
        let mut all = Vec::new();
        for jail in children(self.child.id() as i32)? {
            for first in children(jail)? {
                all.push(first);
                all.extend(children(first)?);
            }
        }
        Ok(all)
    }

    /// The jail's end, and so everybody's. It is told of by its parent, as the launcher's is by herd.
    pub(super) fn kill_all(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill()?)
    }

    fn until_gone(&mut self) -> anyhow::Result<Option<u64>> {
        match self.hear()? {
            Heard::Said(Said::Gone { took, .. }) => Ok(took),
            other => bail!("{}: {other:?}\n{}", self.kind.name(), self.log()),
        }
    }

    fn clear(&mut self, tokens: &[String]) -> anyhow::Result<()> {
        for token in tokens {
            fs::remove_dir_all(self.dir.join(token))?;
        }
        for group in std::mem::take(&mut self.groups) {
            // The runtimes remove theirs.
            let _ = fs::remove_dir(group);
        }
        Ok(())
    }

    fn socket(&self, token: &str) -> PathBuf {
        self.dir.join(token).join("s")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn ask(&mut self, ask: &Ask) -> anyhow::Result<()> {
        let line = serde_json::to_string(ask)? + "\n";
        Ok(self.to.write_all(line.as_bytes())?)
    }

    fn hear(&mut self) -> anyhow::Result<Heard> {
        let mut line = String::new();
        ensure!(
            self.from.read_line(&mut line)? > 0,
            "the jail ended: {}",
            self.log()
        );
        let line = line.trim_end();
        match line.strip_prefix("listening ") {
            Some(token) => Ok(Heard::Listening(token.to_owned())),
            None => Ok(Heard::Said(
                serde_json::from_str(line).with_context(|| line.to_owned())?,
            )),
        }
    }

    /// Everything that can be done before the clock runs.
    fn prepare(&mut self) -> anyhow::Result<Start> {
        self.next += 1;
        let token = format!("t{}", self.next);
        let dir = self.dir.join(&token);
        fs::create_dir(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
        let bare = [&self.tiny.worker, &dir.join("s")].map(|path| path.display().to_string());
        let bare: Vec<_> = bare.into_iter().chain([token.clone()]).collect();
        let inside = ["/worker", "/run/herd/s", &token].map(str::to_owned).to_vec();
        let how = match self.kind {
            Kind::Exec => How::Run { argv: bare, dir },
            Kind::Tree => How::Tree { argv: bare },
            Kind::Floor => How::Sandbox(self.floor(inside, dir, Vec::new())),
            Kind::FloorWithGroups => {
                let groups: Vec<_> = LIMITS
                    .iter()
                    .map(|(controller, file, value)| {
                        let group = self.group(controller, &token);
                        (group, vec![((*file).to_owned(), (*value).to_owned())])
                    })
                    .collect();
                self.groups.extend(groups.iter().map(|(group, _)| group.clone()));
                How::Sandbox(self.floor(inside, dir, groups))
            }
            Kind::Bubblewrap => {
                let words = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind"];
                let mut argv: Vec<_> = words.map(str::to_owned).to_vec();
                argv.extend([self.tiny.rootfs.display().to_string(), "/".to_owned()]);
                argv.extend(
                    ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--bind"].map(str::to_owned),
                );
                argv.extend([dir.display().to_string(), "/run/herd".to_owned()]);
                argv.extend(inside);
                How::Run { argv, dir }
            }
            Kind::Crun | Kind::Runc => {
                for controller in ["memory", "cpu", "pids", "devices"] {
                    self.groups.push(self.group(controller, &token));
                }
                fs::write(dir.join("config.json"), self.config(&inside, &dir, &token)?)?;
                let mut argv = vec![self.kind.name().to_owned(), "--root".to_owned()];
                argv.push(self.dir.join("state").display().to_string());
                if self.who != Who::Root && self.kind == Kind::Crun {
                    argv.push("--cgroup-manager=disabled".to_owned());
                }
                argv.extend(["run".to_owned(), format!("herd-bench-{token}")]);
                How::Run { argv, dir }
            }
        };
        Ok(Start { token, how })
    }

    fn group(&self, controller: &str, token: &str) -> PathBuf {
        let name = format!("herd-bench-{}-{}-{token}", std::process::id(), self.kind as u8);
        Path::new("/sys/fs/cgroup").join(controller).join(name)
    }

    fn first_id(&self) -> Option<u32> {
        (self.who == Who::Root).then(|| FIRST_ID + (self.next % 1000) * 65_536)
    }

    fn floor(
        &self,
        argv: Vec<String>,
        sockets: PathBuf,
        groups: Vec<(PathBuf, Vec<(String, String)>)>,
    ) -> Sandbox {
        Sandbox {
            argv,
            rootfs: self.tiny.rootfs.clone(),
            sockets,
            groups,
            first_id: self.first_id(),
        }
    }

    /// What `runc spec` writes, with herd's namespaces, masks and limits; no system call filter, which herd has.
    fn config(&self, argv: &[String], sockets: &Path, token: &str) -> anyhow::Result<String> {
        let mount = |to: &str, kind: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": kind, "options": options});
        let mut mounts = vec![
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount(
                "/dev",
                "tmpfs",
                &["nosuid", "strictatime", "mode=755", "size=65536k"],
            ),
            mount(
                "/dev/pts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            ),
            mount(
                "/dev/shm",
                "tmpfs",
                &["nosuid", "noexec", "nodev", "mode=1777", "size=64m"],
            ),
            mount("/tmp", "tmpfs", &["nosuid", "nodev", "size=64m"]),
        ];
        mounts.push(
            json!({"destination": "/run/herd", "type": "bind", "source": sockets, "options": ["bind", "rw"]}),
        );
        let namespaces =
            ["pid", "network", "ipc", "uts", "mount", "user", "cgroup"].map(|kind| json!({"type": kind}));
        let (uid, gid, size) = match self.first_id() {
            Some(first) => (first, first, 65_536),
            None => (self.who.id(), self.who.id(), 1),
        };
        let map = |id: u32| json!([{"containerID": 0, "hostID": id, "size": size}]);
        let mut linux = json!({
            "namespaces": namespaces, "uidMappings": map(uid), "gidMappings": map(gid),
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
                "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        });
        if self.who == Who::Root {
            linux["resources"] = json!({"memory": {"limit": 268_435_456}, "cpu": {"quota": 100_000, "period": 100_000},
                "pids": {"limit": 64}});
            let group = self.group("cpu", token);
            let name = group
                .file_name()
                .and_then(|name| name.to_str())
                .context("a name")?;
            linux["cgroupsPath"] = json!(format!("/{name}"));
        }
        let config = json!({
            "ociVersion": "1.0.2", "hostname": "peer", "linux": linux, "mounts": mounts,
            "root": {"path": self.tiny.rootfs, "readonly": true},
            "process": {"terminal": false, "user": {"uid": 0, "gid": 0}, "args": argv, "cwd": "/",
                "env": ["PATH=/"], "noNewPrivileges": true,
                "capabilities": {"bounding": [], "effective": [], "permitted": [], "ambient": []}},
        });
        Ok(serde_json::to_string(&config)?)
    }
}

#[derive(Debug)]
enum Heard {
    Said(Said),
    Listening(String),
}

impl Drop for Peers {
    fn drop(&mut self) {
        // The jail's death is that of everything in it; its parent waits for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for group in &self.groups {
            let _ = fs::remove_dir(group);
        }
        // The next of its kind may want the same place.
        let _ = fs::remove_dir_all(&self.dir);
    }
}
