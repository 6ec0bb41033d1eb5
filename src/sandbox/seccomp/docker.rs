//! Docker's JSON format for system call filters: what `docker run --security-opt seccomp=FILE` reads.
//!
//! The shape is moby's `profiles/seccomp`, which extends `linux.seccomp` of the OCI runtime specification. Values
//! are checked while they are read, so that a mistake is reported with its place in the file. Unknown keys are
//! accepted, as Docker accepts them, and [`strangers`] names them.

use serde::Deserialize;
use serde_json::Value;

use super::calls::ARCHITECTURES;
use super::{Action, Condition, Op, Rule, When};

/// The largest errno the kernel passes on (`MAX_ERRNO`).
const MAX_ERRNO: u64 = 4095;

#[derive(Debug, Deserialize)]
#[serde(try_from = "RawDocument")]
pub(super) struct Document {
    pub(super) default: Action,
    pub(super) rules: Vec<Rule>,
    /// `SECCOMP_FILTER_FLAG_*` bits.
    pub(super) flags: u64,
    /// Every architecture it names.
    pub(super) architectures: Vec<Architecture>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    default_action: Verb,
    default_errno_ret: Option<Errno>,
    architectures: Option<Vec<Architecture>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<Flag>>,
    #[serde(rename = "listenerPath")]
    _listener_path: Option<NoListener>,
    #[serde(rename = "listenerMetadata")]
    _listener_metadata: Option<NoListener>,
    syscalls: Option<Vec<Rule>>,
}

impl TryFrom<RawDocument> for Document {
    type Error = String;

    fn try_from(raw: RawDocument) -> Result<Self, String> {
        let list = raw.architectures.unwrap_or_default();
        let map = raw.arch_map.unwrap_or_default();
        if !list.is_empty() && !map.is_empty() {
            return Err("has both `architectures` and `archMap`; keep one of them".to_owned());
        }
        let mapped = map.into_iter().flat_map(|entry| {
            let below = entry.sub_architectures.unwrap_or_default();
            std::iter::once(entry.architecture).chain(below)
        });
        Ok(Self {
            default: raw
                .default_action
                .with(raw.default_errno_ret, "defaultErrnoRet")?,
            architectures: list.into_iter().chain(mapped).collect(),
            flags: raw
                .flags
                .unwrap_or_default()
                .iter()
                .fold(0, |all, flag| all | flag.0),
            rules: raw.syscalls.unwrap_or_default(),
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Architecture,
    sub_architectures: Option<Vec<Architecture>>,
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Architecture(pub(super) String);

impl TryFrom<String> for Architecture {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match ARCHITECTURES.contains(&name.as_str()) {
            true => Ok(Self(name)),
            false => Err(format!(
                "`{name}` is not an architecture (they look like SCMP_ARCH_X86_64)"
            )),
        }
    }
}

/// A `SECCOMP_FILTER_FLAG_*` bit.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Flag(u64);

impl TryFrom<String> for Flag {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            // The process that loads a filter has one thread, so there is nothing to synchronise.
            "SECCOMP_FILTER_FLAG_TSYNC" => Ok(Self(0)),
            "SECCOMP_FILTER_FLAG_LOG" => Ok(Self(libc::SECCOMP_FILTER_FLAG_LOG)),
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(Self(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW)),
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => Err(format!(
                "{name} is about SCMP_ACT_NOTIFY, which herd does not offer"
            )),
            _ => Err(format!("`{name}` is not a flag of a filter")),
        }
    }
}

/// Refuses whatever it is given.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Value")]
struct NoListener;

impl TryFrom<Value> for NoListener {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value.as_str() {
            Some("") => Ok(Self),
            _ => Err(
                "names a program that answers for the kernel (SCMP_ACT_NOTIFY), which herd does not offer"
                    .to_owned(),
            ),
        }
    }
}

/// An action without its errno.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
enum Verb {
    Errno,
    Plain(Action),
}

impl Verb {
    /// `key` is where `errno` was written.
    fn with(self, errno: Option<Errno>, key: &str) -> Result<Action, String> {
        match (self, errno) {
            (Self::Errno, errno) => Ok(Action::Errno(errno.map_or(libc::EPERM as u16, |errno| errno.0))),
            (Self::Plain(action), None) => Ok(action),
            (Self::Plain(_), Some(_)) => Err(format!("has `{key}`, but only SCMP_ACT_ERRNO returns one")),
        }
    }
}

impl TryFrom<String> for Verb {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Ok(match name.as_str() {
            "SCMP_ACT_ALLOW" => Self::Plain(Action::Allow),
            "SCMP_ACT_LOG" => Self::Plain(Action::Log),
            "SCMP_ACT_ERRNO" => Self::Errno,
            "SCMP_ACT_TRAP" => Self::Plain(Action::Trap),
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Self::Plain(Action::KillThread),
            "SCMP_ACT_KILL_PROCESS" => Self::Plain(Action::KillProcess),
            "SCMP_ACT_TRACE" => {
                return Err(format!(
                    "{name} asks a tracer, and herd's workers have none; SCMP_ACT_ERRNO refuses the call"
                ));
            }
            "SCMP_ACT_NOTIFY" => {
                return Err(format!(
                    "{name} asks a program that answers for the kernel, which herd does not offer"
                ));
            }
            _ => {
                return Err(format!(
                    "`{name}` is not an action; there are SCMP_ACT_ALLOW, _LOG, _ERRNO, _TRAP, _KILL, _KILL_THREAD \
                     and _KILL_PROCESS"
                ));
            }
        })
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "u64")]
struct Errno(u16);

impl TryFrom<u64> for Errno {
    type Error = String;

    fn try_from(number: u64) -> Result<Self, String> {
        match u16::try_from(number) {
            Ok(errno) if number <= MAX_ERRNO => Ok(Self(errno)),
            _ => Err(format!(
                "{number} is not an errno: the kernel has 0 to {MAX_ERRNO}"
            )),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawRule {
    names: Option<Vec<String>>,
    /// From profiles older than `names`.
    name: Option<String>,
    action: Verb,
    errno_ret: Option<Errno>,
    args: Option<Vec<Condition>>,
    includes: Option<Scope>,
    excludes: Option<Scope>,
}

impl TryFrom<RawRule> for Rule {
    type Error = String;

    fn try_from(raw: RawRule) -> Result<Self, String> {
        let one = raw.name.filter(|name| !name.is_empty());
        let names = match (raw.names.unwrap_or_default(), one) {
            (names, Some(_)) if !names.is_empty() => {
                return Err("has both `name` and `names`; keep one of them".to_owned());
            }
            (_, Some(name)) => vec![name],
            (names, None) if names.is_empty() => return Err("names no system call".to_owned()),
            (names, None) => names,
        };
        Ok(Self {
            names,
            action: raw.action.with(raw.errno_ret, "errnoRet")?,
            conditions: raw.args.unwrap_or_default(),
            includes: raw.includes.map(Scope::into).unwrap_or_default(),
            excludes: raw.excludes.map(Scope::into).unwrap_or_default(),
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Scope {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<MinKernel>,
}

impl From<Scope> for When {
    fn from(scope: Scope) -> Self {
        Self {
            capabilities: scope.caps.is_some_and(|caps| !caps.is_empty()),
            arches: scope.arches.unwrap_or_default(),
            kernel: scope.min_kernel.and_then(|kernel| kernel.0),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct MinKernel(Option<(u32, u32)>);

impl TryFrom<String> for MinKernel {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let number = |part: &str| part.parse::<u8>().map(u32::from).ok();
        let parts = text
            .split_once('.')
            .and_then(|(kernel, major)| Some((number(kernel)?, number(major)?)));
        match parts {
            Some(version) if version != (0, 0) => Ok(Self(Some(version))),
            _ => Err(format!("`{text}` is not a kernel version like \"5.11\"")),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawCondition {
    index: u64,
    value: u64,
    value_two: Option<u64>,
    op: String,
}

impl TryFrom<RawCondition> for Condition {
    type Error = String;

    fn try_from(raw: RawCondition) -> Result<Self, String> {
        let index = match u8::try_from(raw.index) {
            Ok(index) if index <= 5 => index,
            _ => {
                return Err(format!(
                    "`index` is {}, and a system call has arguments 0 to 5",
                    raw.index
                ));
            }
        };
        let (op, value) = match raw.op.as_str() {
            "SCMP_CMP_NE" => (Op::Ne, raw.value),
            "SCMP_CMP_LT" => (Op::Lt, raw.value),
            "SCMP_CMP_LE" => (Op::Le, raw.value),
            "SCMP_CMP_EQ" => (Op::Eq, raw.value),
            "SCMP_CMP_GE" => (Op::Ge, raw.value),
            "SCMP_CMP_GT" => (Op::Gt, raw.value),
            // Here, and only here, `value` is the mask.
            "SCMP_CMP_MASKED_EQ" => (Op::MaskedEq { mask: raw.value }, raw.value_two.unwrap_or(0)),
            other => {
                return Err(format!(
                    "`{other}` is not a comparison; there are SCMP_CMP_NE, _LT, _LE, _EQ, _GE, _GT and _MASKED_EQ"
                ));
            }
        };
        Ok(Self { index, op, value })
    }
}

/// The keys of `value`, a whole profile, that mean nothing in a profile.
pub(super) fn strangers(value: &Value) -> Vec<String> {
    const TOP: &[&str] = &[
        "defaultAction",
        "defaultErrnoRet",
        "architectures",
        "archMap",
        "flags",
        "listenerPath",
        "listenerMetadata",
        "syscalls",
    ];
    const RULE: &[&str] = &[
        "names", "name", "action", "errnoRet", "args", "includes", "excludes",
    ];
    const ARGUMENT: &[&str] = &["index", "value", "valueTwo", "op"];
    const SCOPE: &[&str] = &["caps", "arches", "minKernel"];
    const MAP: &[&str] = &["architecture", "subArchitectures"];
    fn keys(path: &str, value: &Value, known: &[&str], found: &mut Vec<String>) {
        let keys = value.as_object().into_iter().flat_map(|object| object.keys());
        found.extend(
            keys.filter(|key| !known.contains(&key.as_str()) && *key != "comment")
                .map(|key| format!("{path}{key}")),
        );
    }
    fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = (usize, &'a Value)> {
        value[key].as_array().into_iter().flatten().enumerate()
    }
    let mut found = Vec::new();
    keys("", value, TOP, &mut found);
    for (index, entry) in items(value, "archMap") {
        keys(&format!("archMap[{index}]."), entry, MAP, &mut found);
    }
    for (index, rule) in items(value, "syscalls") {
        let path = format!("syscalls[{index}].");
        keys(&path, rule, RULE, &mut found);
        for (number, argument) in items(rule, "args") {
            keys(&format!("{path}args[{number}]."), argument, ARGUMENT, &mut found);
        }
        for scope in ["includes", "excludes"] {
            keys(&format!("{path}{scope}."), &rule[scope], SCOPE, &mut found);
        }
    }
    found
}
