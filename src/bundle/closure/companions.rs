//! What files need without saying so: libraries opened by name at run time, data beside a program, the
//! standard libraries of languages.
//!
//! Each entry says why. What is not installed is not missed.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::gather::Care;
use super::libraries::{expand, matches};
use super::machine::{Machine, Walk};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Companion {
    /// Looked for where the loader looks.
    Library(String),
    File(PathBuf),
    Directory {
        path: PathBuf,
        /// Names, with wildcards, that are left out at any depth.
        without: &'static [&'static str],
    },
}

/// Directories of compiled Python, which is taken file by file: what belongs to no source stays out.
pub(super) const CACHE: &str = "__pycache__";

/// Whether `name` is one of those left out.
pub(super) fn excludes(without: &[&str], name: &str) -> bool {
    without.iter().any(|pattern| matches(pattern, name))
}

/// A shared library and what it opens at run time. Paths that start with `./` lie beside it.
struct Rule {
    library: &'static str,
    libraries: &'static [&'static str],
    paths: &'static [&'static str],
}

const RULES: &[Rule] = &[
    // glibc looks up users and hosts with plug-ins (inside libc since 2.34), ends threads with the help of
    // libgcc_s, and has its one locale that needs no language beside it.
    Rule {
        library: "libc.so.6",
        libraries: &["libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2"],
        paths: &["/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8"],
    },
    // musl's loader reads its search path from here.
    Rule {
        library: "ld-musl-*",
        libraries: &[],
        paths: &["/etc/ld-musl-x86_64.path", "/etc/ld-musl-aarch64.path"],
    },
    // Its configuration is optional, its legacy ciphers are a plug-in. Certificates are not included:
    // most workers have no network.
    Rule {
        library: "libcrypto.so.*",
        libraries: &[],
        paths: &[
            "./ossl-modules",
            "/etc/ssl/openssl.cnf",
            "/usr/lib/ssl/openssl.cnf",
        ],
    },
    // NSS (the one for cryptography) opens its algorithms and its root certificates by name.
    Rule {
        library: "libnss3.so",
        libraries: &[],
        paths: &[
            "./nss",
            "./libsoftokn3.so",
            "./libsoftokn3.chk",
            "./libfreebl3.so",
            "./libfreebl3.chk",
            "./libfreeblpriv3.so",
            "./libfreeblpriv3.chk",
            "./libnssckbi.so",
            "./libnssdbm3.so",
        ],
    },
    // Without its configuration it finds no font at all.
    Rule {
        library: "libfontconfig.so.1",
        libraries: &[],
        paths: &["/etc/fonts", "/usr/share/fontconfig"],
    },
    Rule {
        library: "libgdk_pixbuf-2.0.so.0",
        libraries: &[],
        paths: &["./gdk-pixbuf-2.0"],
    },
    // Keyboard layouts.
    Rule {
        library: "libxkbcommon.so.0",
        libraries: &[],
        paths: &["/usr/share/X11/xkb"],
    },
    Rule {
        library: "libmagic.so.1",
        libraries: &[],
        paths: &[
            "/usr/share/misc/magic.mgc",
            "/usr/lib/file/magic.mgc",
            "/etc/magic",
        ],
    },
    Rule {
        library: "libtinfo.so.*",
        libraries: &[],
        paths: &["/lib/terminfo", "/usr/lib/terminfo"],
    },
];

/// The standard library comes without its tests, examples, tools to build extensions, and other people's
/// packages.
const PYTHON: &[&str] = &[
    "test",
    "tests",
    "idlelib",
    "turtledemo",
    "ensurepip",
    "config-3*",
    "site-packages",
    "dist-packages",
];
const NOTHING: &[&str] = &[];

/// The companions of the file at the end of `walk`, asked for as `asked`.
pub(super) fn of(machine: &Machine, asked: &Path, walk: &Walk, care: Care) -> Vec<Companion> {
    let mut found = libraries(machine, walk);
    found.extend(compiled(machine, &walk.path));
    if care == Care::Named {
        found.extend(virtual_environment(machine, asked, walk));
        found.extend(node_package(&walk.path));
        found.extend(own_directory(&walk.path));
        found.extend(language(machine, walk));
    }
    found.retain(|companion| match companion {
        Companion::Library(_) => true,
        Companion::File(path) | Companion::Directory { path, .. } => machine.exists(path),
    });
    found
}

/// What Python compiled a source file to: a worker cannot write it down, and would compile at every start.
fn compiled(machine: &Machine, path: &Path) -> Vec<Companion> {
    if path.extension().is_none_or(|extension| extension != "py") {
        return Vec::new();
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    // `*.opt-1.pyc` is read by a Python that was told to optimise.
    let pattern = format!("{CACHE}/{name}.*-*.pyc");
    expand(machine, &path.with_file_name(pattern))
        .into_iter()
        .filter(|path| !path.to_string_lossy().contains(".opt-"))
        .map(Companion::File)
        .collect()
}

fn libraries(machine: &Machine, walk: &Walk) -> Vec<Companion> {
    let name = walk.path.file_name().unwrap_or_default().to_string_lossy();
    let beside = walk.path.parent().unwrap_or(Path::new("/"));
    let mut found = Vec::new();
    for rule in RULES.iter().filter(|rule| matches(rule.library, &name)) {
        found.extend(
            rule.libraries
                .iter()
                .map(|name| Companion::Library((*name).to_owned())),
        );
        for path in rule.paths {
            let path = beside.join(path.strip_prefix("./").unwrap_or(path));
            found.push(match machine.walk(&path) {
                Ok(walk) if walk.metadata.is_dir() => Companion::Directory {
                    path,
                    without: NOTHING,
                },
                _ => Companion::File(path),
            });
        }
    }
    found
}

/// Interpreters, known by the names of their programs.
fn language(machine: &Machine, walk: &Walk) -> Vec<Companion> {
    let name = walk
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let Some(prefix) = walk.path.parent().and_then(Path::parent) else {
        return Vec::new();
    };
    let directory = |path: PathBuf, without| Companion::Directory { path, without };
    if matches("python[0-9]*", &name) || matches("python3*", &name) {
        let mut found = vec![
            directory(prefix.join("lib").join(&name), PYTHON),
            directory(prefix.join("lib64").join(&name), PYTHON),
        ];
        // The one module of the standard library that Debian keeps elsewhere.
        found.push(Companion::File("/usr/share/zoneinfo/UTC".into()));
        return found;
    }
    let below_lib = |pattern: &str| {
        let mut found = expand(machine, &prefix.join("lib").join(pattern));
        for architecture in expand(machine, &prefix.join("lib/*-linux-gnu*")) {
            found.extend(expand(machine, &architecture.join(pattern)));
        }
        found.extend(expand(machine, &prefix.join("share").join(pattern)));
        found
    };
    match name.as_str() {
        _ if matches("perl*", &name) => ["perl", "perl-base"]
            .into_iter()
            .flat_map(below_lib)
            .map(|path| directory(path, NOTHING))
            .chain([directory("/etc/perl".into(), NOTHING)])
            .collect(),
        _ if matches("ruby*", &name) => below_lib("ruby*")
            .into_iter()
            .map(|path| directory(path, NOTHING))
            .collect(),
        // Debian's node takes parts of itself from packages in here.
        "node" | "nodejs" => vec![directory(prefix.join("share/nodejs"), NOTHING)],
        "git" => vec![
            directory(prefix.join("lib/git-core"), NOTHING),
            directory(prefix.join("share/git-core"), NOTHING),
        ],
        // Debian's launcher is a script; the browser and its resources lie elsewhere.
        "chromium" if !owns_directory(&walk.path) => vec![
            directory(prefix.join("lib/chromium"), NOTHING),
            directory("/etc/chromium.d".into(), NOTHING),
            directory("/etc/chromium".into(), NOTHING),
        ],
        _ => Vec::new(),
    }
}

/// The environment of a Python program or of a script in one (PEP 405): its mark lies above its `bin`.
fn virtual_environment(machine: &Machine, asked: &Path, walk: &Walk) -> Option<Companion> {
    let links = walk.steps.iter().filter_map(|step| match step {
        super::machine::Step::Link { path, .. } => Some(path.as_path()),
        super::machine::Step::Directory { .. } => None,
    });
    let root = std::iter::once(asked)
        .chain(links)
        .filter_map(|path| path.parent()?.parent())
        .find(|root| machine.exists(&root.join("pyvenv.cfg")))?;
    Some(Companion::Directory {
        path: root.to_owned(),
        without: NOTHING,
    })
}

/// /usr/lib/chromium/chromium: a directory of the program's own name is all the program's.
fn own_directory(path: &Path) -> Option<Companion> {
    let directory = path.parent()?.to_owned();
    owns_directory(path).then_some(Companion::Directory {
        path: directory,
        without: NOTHING,
    })
}

fn owns_directory(path: &Path) -> bool {
    let directory = path.parent().and_then(Path::file_name);
    directory.is_some() && directory == path.file_name()
}

/// A script inside `node_modules` runs with its package, and with the packages that one is installed with.
fn node_package(path: &Path) -> Option<Companion> {
    let root = path
        .ancestors()
        .filter(|above| {
            above
                .parent()
                .and_then(Path::file_name)
                .is_some_and(|name| name.as_bytes() == b"node_modules")
        })
        .last()?;
    Some(Companion::Directory {
        path: root.to_owned(),
        without: NOTHING,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_of_a_node_package_brings_the_package() {
        let found = node_package(Path::new("/opt/node_modules/npm/node_modules/x/bin/x.js"));
        let expected = Companion::Directory {
            path: "/opt/node_modules/npm".into(),
            without: NOTHING,
        };
        assert_eq!(found, Some(expected));
        assert_eq!(node_package(Path::new("/usr/bin/node")), None);
    }

    #[test]
    fn a_program_in_a_directory_of_its_name_brings_the_directory() {
        let found = own_directory(Path::new("/usr/lib/app/app"));
        let expected = Companion::Directory {
            path: "/usr/lib/app".into(),
            without: NOTHING,
        };
        assert_eq!(found, Some(expected));
        assert_eq!(own_directory(Path::new("/usr/lib/app/helper")), None);
    }

    #[test]
    fn tests_of_the_standard_library_stay_out() {
        assert!(excludes(PYTHON, "test"));
        assert!(excludes(PYTHON, "config-3.11-x86_64-linux-gnu"));
        assert!(!excludes(PYTHON, "unittest"));
    }
}
