//! The `sandbox` of a kind: as it is written, and what it comes to.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use schemars::{JsonSchema, Schema, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, Unexpected, Visitor};

use super::model;
use super::raw::words;
use super::schema::inline_schema;
use super::switch::{Switch, Switched, Wrong};
use super::text::FromText;
use super::units::{Count, Size};

/// `off`, `host`, or settings.
pub(super) type Choice = Switch<Settings>;

#[derive(Debug, Default, Clone, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "off, host, or settings such as {rootfs: host, memory: 512M}"
)]
#[schemars(rename = "Sandbox")]
pub(super) struct Settings {
    /// An OCI bundle: a directory with config.json and a root filesystem. Either this or `rootfs`.
    pub(super) bundle: Option<BundlePath>,
    /// `host`: the host's system directories, read-only. Either this or `bundle`.
    pub(super) rootfs: Option<RootFs>,
    /// System calls: `strict` (default), `browser` (adds what Chromium's own sandbox needs), or the
    /// path of a seccomp profile in Docker's JSON format.
    pub(super) profile: Option<ProfileText>,
    /// `none` (default): a network of its own with only loopback. `host`: the host's network.
    pub(super) network: Option<Network>,
    /// Most memory, swap excluded. Default: no limit.
    pub(super) memory: Option<Size>,
    /// Most processor time, in cores. Default: no limit.
    pub(super) cpus: Option<Cpus>,
    /// Most processes and threads. Default: 512.
    pub(super) pids: Option<Count>,
    /// The writable layer, in memory: its size. Default: 64M, for `profile: browser` 512M.
    pub(super) tmpfs: Option<Size>,
    /// Directories and files of the host that the worker sees. Default: none.
    pub(super) mounts: Option<Vec<Mount>>,
    /// User and group id of the worker inside. Default: the bundle's, else 1000.
    pub(super) user: Option<Count>,
    /// `strict` (default) refuses to start where this host cannot enforce what is asked for;
    /// `best-effort` starts without it and says so.
    pub(super) require: Option<Require>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "a mount, e.g. {source: ./data, target: /data, mode: ro}"
)]
#[schemars(extend("required" = ["source", "target"]))]
pub(super) struct Mount {
    /// On the host; relative to the directory herd was started in.
    pub(super) source: Option<MountSource>,
    /// Where the worker sees it: an absolute path.
    pub(super) target: Option<MountTarget>,
    /// `ro` (default) or `rw`.
    pub(super) mode: Option<MountMode>,
}

words! {
    RootFs { Host = "host" }
    Network { None = "none", Host = "host" }
    MountMode { Ro = "ro", Rw = "rw" }
    Require { Strict = "strict", BestEffort = "best-effort" }
}

impl Switched for Settings {
    const EXPECTING: &'static str = "off, host, or settings such as {rootfs: host, memory: 512M}";
    const INSTEAD_OF_TRUE: &'static str = "host, or settings such as {bundle: DIR}";

    fn from_word<E: de::Error>(word: &str) -> Result<Self, E> {
        match word {
            "host" => Ok(Self {
                rootfs: Some(RootFs::Host),
                ..Self::default()
            }),
            _ => Err(E::unknown_variant(word, &["off", "host", "{bundle: DIR}"])),
        }
    }

    fn word_schema() -> Schema {
        json_schema!({ "const": "host" })
    }
}

/// Cores, in thousandths: `1.5`, `0.25`, `4`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpus(pub(super) u32);

struct CpusVisitor;

impl CpusVisitor {
    fn cores<E: de::Error>(cores: f64) -> Result<Cpus, E> {
        if (0.01..=1024.0).contains(&cores) {
            Ok(Cpus((cores * 1000.0).round() as u32))
        } else {
            Err(E::custom(format!(
                "is {cores}; write 0.01 to 1024 cores, e.g. 1.5"
            )))
        }
    }
}

impl Visitor<'_> for CpusVisitor {
    type Value = Cpus;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of cores such as 1.5")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Cpus, E> {
        if number < 0 {
            return Err(E::invalid_type(Unexpected::Signed(number), &self));
        }
        Self::cores(number as f64)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Cpus, E> {
        Self::cores(number)
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CpusVisitor)
    }
}

inline_schema!(
    Cpus,
    json_schema!({ "type": "number", "minimum": 0.01, "maximum": 1024 })
);

macro_rules! paths {
    ($($(#[$doc:meta])* $name:ident($inner:ty) = $expecting:literal, $parse:expr;)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub(super) struct $name(pub(super) $inner);

        impl FromText for $name {
            const EXPECTING: &'static str = $expecting;

            fn from_text(text: &str) -> Result<Self, String> {
                let parse: fn(&str) -> Result<$inner, String> = $parse;
                parse(text).map(Self)
            }
        }
    )* };
}

paths! {
    BundlePath(PathBuf) = "a directory such as bundles/python", |text| path(text, "bundles/python");
    MountSource(PathBuf) = "a path such as ./data", |text| path(text, "./data");
    MountTarget(PathBuf) = "an absolute path such as /data", target;
    ProfileText(model::Profile) = "strict, browser, or the path of a profile", |text| Ok(match text {
        "strict" => model::Profile::Strict,
        "browser" => model::Profile::Browser,
        _ => model::Profile::File(path(text, "strict, browser or ./seccomp.json")?),
    });
}

super::text::from_text!(BundlePath, MountSource, MountTarget, ProfileText);

fn path(text: &str, example: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("is not a path; write e.g. {example}"));
    }
    if text.starts_with("~/") {
        return Err("begins with ~, which only shells replace; write the whole path".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// Where nothing may be mounted, because the sandbox itself stands there.
const OWN_PLACES: [&str; 4] = ["/proc", "/sys", "/dev", "/run/herd"];

fn target(text: &str) -> Result<PathBuf, String> {
    let path = path(text, "/data")?;
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain {
        return Err("is not an absolute path without `..`; write e.g. /data".to_owned());
    }
    if path == Path::new("/") {
        return Err("is the root, which comes from bundle or rootfs; write e.g. /data".to_owned());
    }
    if let Some(own) = OWN_PLACES.iter().find(|own| path.starts_with(own)) {
        return Err(format!(
            "lies in {own}, which is the sandbox's own; write e.g. /data"
        ));
    }
    Ok(path)
}

/// A kind's own settings win, one by one; a bundle of its own replaces the default's root, and the reverse.
pub(super) fn merge(own: Option<Choice>, defaults: Option<&Choice>) -> Option<Choice> {
    match (own, defaults) {
        (Some(Choice::On(own)), Some(Choice::On(defaults))) => {
            let root = own.bundle.is_none() && own.rootfs.is_none();
            macro_rules! pick {
                ($($key:ident),*) => {
                    Settings {
                        bundle: if root { defaults.bundle.clone() } else { own.bundle },
                        rootfs: if root { defaults.rootfs } else { own.rootfs },
                        $($key: own.$key.or_else(|| defaults.$key.clone()),)*
                    }
                };
            }
            Some(Choice::On(Box::new(pick!(
                profile, network, memory, cpus, pids, tmpfs, mounts, user, require
            ))))
        }
        (own, defaults) => own.or_else(|| defaults.cloned()),
    }
}

/// Smallest and largest of what is measured in bytes.
const LEAST_MEMORY: usize = 8 << 20;
const LEAST_TMPFS: usize = 1 << 20;

pub(super) fn validated(settings: Settings) -> Result<model::Sandbox, Vec<Wrong>> {
    let mut wrong: Vec<Wrong> = Vec::new();
    let root = match (settings.bundle, settings.rootfs) {
        (Some(bundle), None) => Some(model::Root::Bundle(bundle.0)),
        (None, Some(RootFs::Host)) => Some(model::Root::Host),
        (Some(_), Some(_)) => {
            let message = "is given beside bundle, but a sandbox has one root; keep one of the two";
            wrong.push((Some("rootfs"), message.to_owned()));
            None
        }
        (None, None) => {
            let message =
                "names no root; write rootfs: host for the host's system directories, or bundle: DIR";
            wrong.push((None, message.to_owned()));
            None
        }
    };
    let memory = settings.memory.map(|size| size.0);
    if memory.is_some_and(|bytes| bytes < LEAST_MEMORY) {
        wrong.push((
            Some("memory"),
            "is too little for any program; write at least 8M".to_owned(),
        ));
    }
    let profile = settings.profile.map_or(model::Profile::Strict, |text| text.0);
    // A browser's shared memory and profile are in it.
    let usual = match profile {
        model::Profile::Browser => 512 << 20,
        model::Profile::Strict | model::Profile::File(_) => 64 << 20,
    };
    let tmpfs = settings.tmpfs.map_or(usual, |size| size.0);
    if tmpfs < LEAST_TMPFS {
        wrong.push((
            Some("tmpfs"),
            "is too little for a sandbox's own files; write at least 1M".to_owned(),
        ));
    }
    let pids = settings.pids.map(|count| count.0);
    if pids.is_some_and(|pids| pids < 4) {
        wrong.push((
            Some("pids"),
            "leaves no room for a program; write at least 4".to_owned(),
        ));
    }
    let user = settings.user.map(|count| count.0);
    if user.is_some_and(|user| user > 65_533) {
        wrong.push((
            Some("user"),
            "is not an id inside a sandbox; write 0 to 65533".to_owned(),
        ));
    }
    let mut mounts: Vec<model::Mount> = Vec::new();
    for mount in settings.mounts.unwrap_or_default() {
        match (mount.source, mount.target) {
            (Some(source), Some(target)) => mounts.push(model::Mount {
                source: source.0,
                target: target.0,
                writable: matches!(mount.mode, Some(MountMode::Rw)),
            }),
            (None, _) => wrong.push((
                Some("mounts"),
                "has one without a source; write e.g. source: ./data".to_owned(),
            )),
            (_, None) => wrong.push((
                Some("mounts"),
                "has one without a target; write e.g. target: /data".to_owned(),
            )),
        }
    }
    for (index, mount) in mounts.iter().enumerate() {
        if mounts[..index].iter().any(|other| other.target == mount.target) {
            let target = mount.target.display();
            wrong.push((Some("mounts"), format!("has {target} twice; keep one of the two")));
        }
    }
    match root {
        Some(root) if wrong.is_empty() => Ok(model::Sandbox {
            root,
            profile,
            network: match settings.network {
                Some(Network::Host) => model::SandboxNetwork::Host,
                Some(Network::None) | None => model::SandboxNetwork::None,
            },
            limits: model::Limits {
                memory: memory.map(|bytes| bytes as u64),
                cpus: settings.cpus.map(|cpus| cpus.0),
                pids: pids.unwrap_or(model::DEFAULT_PIDS) as u64,
                pids_asked: pids.is_some(),
            },
            tmpfs: tmpfs as u64,
            mounts,
            user: user.map(|user| user as u32),
            require: match settings.require {
                Some(Require::BestEffort) => model::Require::BestEffort,
                Some(Require::Strict) | None => model::Require::Strict,
            },
        }),
        _ => Err(wrong),
    }
}
