//! A bundle's config.json: what `runc run` and `crun run` need beside herd.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::ANNOTATIONS;
use super::content::Sha256Digest;

/// What is to run in a bundle, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Program and arguments; a shell if empty, because a config.json without arguments is not valid.
    pub args: Vec<String>,
    /// `NAME=value`; a PATH is added if there is none.
    pub env: Vec<String>,
    /// Absolute; made in the root filesystem if it is missing.
    pub cwd: String,
    pub user: User,
    /// Become annotations, except those that would pass as herd's own.
    pub labels: BTreeMap<String, String>,
    /// In Go's spelling, as OCI has it: `amd64`, `arm64`.
    pub architecture: String,
    /// Where it came from, for people.
    pub source: String,
}

/// An identity inside the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// What config.json says about the files beside it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content {
    pub(super) digest: Sha256Digest,
    /// Bytes.
    pub(super) size: u64,
    pub(super) entries: usize,
}

/// Directories that something is mounted on. They are made beforehand: a runtime that has to make them in a
/// bundle changes the bundle.
pub(super) const MOUNT_POINTS: [(&str, u32); 4] =
    [("proc", 0o755), ("dev", 0o755), ("sys", 0o755), ("tmp", 0o1777)];

/// Where programs of a bundle are looked up unless it says otherwise.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What of /proc nobody in a sandbox sees: as Docker hides it, and what tells of the machine's load and power (security
/// reviews of container runtimes since 2020).
pub const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
];

/// The same of /sys, which herd's own sandboxes do not have.
const MASKED_IN_SYS: [&str; 2] = ["/sys/devices/virtual/powercap", "/sys/firmware"];

/// What of /proc nobody in a sandbox writes.
pub const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

impl Config {
    pub(super) fn cwd(&self) -> String {
        match self.cwd.starts_with('/') {
            true => self.cwd.clone(),
            false => format!("/{}", self.cwd),
        }
    }

    /// config.json's `process`: the part that belongs to the content, the same whoever makes the bundle.
    pub(super) fn process(&self) -> Value {
        let mut env = self.env.clone();
        if !env.iter().any(|entry| entry.starts_with("PATH=")) {
            env.insert(0, format!("PATH={PATH}"));
        }
        let args = match self.args.is_empty() {
            true => vec!["/bin/sh".to_owned()],
            false => self.args.clone(),
        };
        json!({
            "terminal": false,
            "user": { "uid": self.user.uid, "gid": self.user.gid },
            "args": args,
            "env": env,
            "cwd": self.cwd(),
            // No capability, as in herd's own sandboxes.
            "capabilities": { "bounding": [], "effective": [], "permitted": [] },
            "noNewPrivileges": true,
        })
    }

    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        let ours = |name: &str| name.is_empty() || name.starts_with(ANNOTATIONS);
        let labels = self.labels.iter().filter(|(name, _)| !ours(name));
        labels
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// What the digest covers beside the files.
    pub(super) fn digested(&self) -> String {
        json!({ "process": self.process(), "labels": self.labels() }).to_string()
    }

    /// The whole config.json. Made by somebody other than root it runs as root of a user namespace that knows only
    /// the maker: that is all that every rootless runtime can give. The user meant is in an annotation.
    pub(super) fn spec(&self, content: &Content, maker: User) -> Value {
        let mut annotations = self.labels();
        for (name, value) in [
            ("digest", content.digest.to_string()),
            ("size", content.size.to_string()),
            ("entries", content.entries.to_string()),
            ("user", format!("{}:{}", self.user.uid, self.user.gid)),
            ("architecture", self.architecture.clone()),
            ("source", self.source.clone()),
        ] {
            annotations.insert(format!("{ANNOTATIONS}{name}"), value);
        }
        let mut process = self.process();
        let mut namespaces = vec!["pid", "network", "ipc", "uts", "mount"];
        let mut mappings = json!({});
        let mut devpts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
        if maker.uid == 0 {
            devpts.push("gid=5");
        } else {
            namespaces.push("user");
            let root = |outside: u32| json!([{ "containerID": 0, "hostID": outside, "size": 1 }]);
            mappings = json!({ "uidMappings": root(maker.uid), "gidMappings": root(maker.gid) });
            process["user"] = json!({ "uid": 0, "gid": 0 });
        }
        let namespaces: Vec<_> = namespaces.iter().map(|name| json!({ "type": name })).collect();
        let masked = [&MASKED[..], &MASKED_IN_SYS].concat();
        let mut linux = json!({
            "namespaces": namespaces,
            "maskedPaths": masked,
            "readonlyPaths": READ_ONLY,
        });
        if let (Value::Object(linux), Value::Object(mappings)) = (&mut linux, mappings) {
            linux.extend(mappings);
        }
        json!({
            "ociVersion": "1.0.2",
            "process": process,
            "root": { "path": "rootfs", "readonly": true },
            "hostname": "herd",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                  "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": devpts },
                { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                  "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
                { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                  "options": ["nosuid", "noexec", "nodev"] },
                { "destination": "/sys", "type": "sysfs", "source": "sysfs",
                  "options": ["nosuid", "noexec", "nodev", "ro"] },
                { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
                  "options": ["nosuid", "nodev", "mode=1777", "size=65536k"] },
            ],
            "annotations": annotations,
            "linux": linux,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_json_is_one_that_oci_knows_and_labels_cannot_pose_as_herd() {
        let config = Config {
            args: vec![],
            env: vec!["A=b".into()],
            cwd: "work".into(),
            user: User { uid: 33, gid: 34 },
            labels: BTreeMap::from([
                ("a".to_owned(), "1".to_owned()),
                ("dev.herd.bundle.digest".to_owned(), "forged".to_owned()),
                (String::new(), "x".to_owned()),
            ]),
            architecture: "amd64".into(),
            source: "test".into(),
        };
        let digest = Sha256Digest::of(b"");
        let content = Content {
            digest,
            size: 1,
            entries: 2,
        };
        for maker in [User::default(), User { uid: 1000, gid: 1001 }] {
            let text = config.spec(&content, maker).to_string();
            let spec: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
            let annotations = spec.annotations().as_ref().unwrap();
            assert_eq!(annotations["dev.herd.bundle.digest"], digest.to_string());
            assert_eq!((annotations.len(), annotations["a"].as_str()), (7, "1"));
            let process = spec.process().as_ref().unwrap();
            assert_eq!(process.args().as_ref().unwrap(), &["/bin/sh"]);
            assert_eq!(process.user().uid(), if maker.uid == 0 { 33 } else { 0 });
            assert_eq!(process.cwd().to_str(), Some("/work"));
            let linux = spec.linux().as_ref().unwrap();
            let masked = linux.masked_paths().as_ref().unwrap();
            for path in ["/proc/kmsg", "/proc/kallsyms", "/proc/keys", "/sys/firmware"] {
                assert!(masked.iter().any(|masked| masked == path), "{path}");
            }
            let mapped = linux
                .uid_mappings()
                .as_ref()
                .map(|maps| (maps[0].container_id(), maps[0].host_id()));
            assert_eq!(mapped, (maker.uid != 0).then_some((0, 1000)));
        }
        assert!(config.process()["env"][0].as_str().unwrap().starts_with("PATH="));
    }
}
