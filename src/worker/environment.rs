//! A worker's command line and environment: what its kind names, and nothing else of herd's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::config::{Kind, Root, Values};
use crate::launcher::Program;
use crate::launcher::sandbox::{HOME, OWN_BINARY, OWN_NAME, Plan, SYSTEM};
use crate::sys::process;

/// Always passed on where herd has them; few programs run without.
const ALWAYS: [&str; 3] = ["PATH", "HOME", "LANG"];

/// Where even herd has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// herd's own environment, read once, without what is `secret`. Variables that are not UTF-8 cannot be passed on.
pub(super) fn own(secret: &BTreeSet<&str>) -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
        .filter(|(name, _)| !secret.contains(name.as_str()))
        .collect()
}

/// What to run for a worker of this kind. Later sources win: PATH, HOME and LANG, `env_passthrough`, `PORT`,
/// `env`.
///
/// In a sandbox herd's own PATH and HOME mean nothing: they are the bundle's, or the usual ones.
pub(super) fn program(
    kind: &Kind,
    values: &Values,
    own: &[(String, String)],
    sandbox: Option<&Plan>,
) -> Program {
    let mut env = BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]);
    if let Some(plan) = sandbox {
        env.insert("HOME".to_owned(), HOME.to_owned());
        env.extend(plan.env().iter().cloned());
    }
    let always: &[&str] = match sandbox {
        Some(_) => &["LANG"],
        None => &ALWAYS,
    };
    let passed = |name: &str| {
        always.contains(&name)
            || kind
                .env_passthrough
                .iter()
                .any(|p| matches(p.as_bytes(), name.as_bytes()))
    };
    env.extend(own.iter().filter(|(name, _)| passed(name)).cloned());
    if let Some(port) = values.port {
        env.insert("PORT".to_owned(), port.to_string());
    }
    env.extend(
        kind.env
            .iter()
            .map(|(name, value)| (name.clone(), value.render(values))),
    );
    let mut argv: Vec<String> = kind.cmd.iter().map(|argument| argument.render(values)).collect();
    if let Some(name) = argv.first_mut().filter(|name| *name == OWN_NAME) {
        if sandbox.is_some() {
            *name = OWN_BINARY.to_owned();
        } else if let Some(this) = process::own_binary()
            .ok()
            .and_then(|path| path.into_os_string().into_string().ok())
        {
            *name = this;
        }
    }
    Program {
        argv,
        env: env.into_iter().collect(),
        cwd: match (&kind.cwd, sandbox) {
            (Some(cwd), _) => Some(cwd.render(values)),
            (None, Some(plan)) => Some(plan.cwd().unwrap_or(HOME).to_owned()),
            (None, None) => None,
        },
    }
}

/// Where the program is on this host, if its sandbox does not show that place; said after it could not be run.
pub(super) fn hidden(kind: &Kind, own: &[(String, String)]) -> Option<String> {
    let sandbox = kind.sandbox.on().filter(|sandbox| sandbox.root == Root::Host)?;
    let name = Path::new(kind.cmd.first()?.text()?);
    let path = own
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or(DEFAULT_PATH, |(_, path)| path);
    let candidates: Vec<PathBuf> = match name.components().count() > 1 {
        true => vec![name.to_owned()],
        false => path
            .split(':')
            .map(|directory| Path::new(directory).join(name))
            .collect(),
    };
    let found = candidates
        .iter()
        .find_map(|file| std::fs::canonicalize(file).ok())?;
    let mounted = sandbox
        .mounts
        .iter()
        .any(|mount| found.starts_with(&mount.source));
    let shown = SYSTEM
        .iter()
        .any(|place| found.starts_with(Path::new("/").join(place)));
    let directory = found.parent()?.display();
    (!shown && !mounted).then(|| {
        format!(
            "; on this host it is {}, which the sandbox does not show: add `mounts: [{{source: {directory}, target: \
             {directory}}}]` to it and name the program by that path",
            found.display()
        )
    })
}

/// `*` is any run of bytes, `?` any one byte.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on if the latest `*` has to take one more byte.
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((star, taken)) => {
                    retry = Some((star, taken + 1));
                    p = star + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Kind {
        let config = crate::config::parse(text, "herd.yaml").unwrap();
        Kind::clone(&config.kinds[0])
    }

    #[test]
    fn a_program_outside_the_system_directories_is_told_from_one_that_is_nowhere() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("tool"), "").unwrap();
        let place = home.path().canonicalize().unwrap().display().to_string();
        let own = [("PATH".to_owned(), format!("/usr/bin:{place}"))];
        let hidden = |text: &str| hidden(&kind(text), &own);
        let told = hidden("workers: {a: {cmd: [tool], sandbox: host}}").unwrap();
        assert!(told.contains(&format!("{place}/tool")), "{told}");
        assert!(
            told.contains(&format!("source: {place}, target: {place}")),
            "{told}"
        );
        assert_eq!(hidden("workers: {a: {cmd: [nowhere], sandbox: host}}"), None);
        assert_eq!(hidden("workers: {a: {cmd: [sh], sandbox: host}}"), None);
        assert_eq!(hidden("workers: {a: {cmd: [tool], sandbox: off}}"), None);
    }

    #[test]
    fn globs_match_whole_names() {
        for (pattern, name, expected) in [
            ("PLAYWRIGHT_*", "PLAYWRIGHT_BROWSERS_PATH", true),
            ("PLAYWRIGHT_*", "XPLAYWRIGHT_A", false),
            ("*_PROXY", "HTTPS_PROXY", true),
            ("*_PROXY", "HTTPS_PROXY_X", false),
            ("L?_ALL", "LC_ALL", true),
            ("L?_ALL", "L_ALL", false),
            ("*a*b*", "xaxxbx", true),
            ("*a*b", "xaxxbx", false),
            ("*", "", true),
            ("", "A", false),
            ("A", "A", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }
}
