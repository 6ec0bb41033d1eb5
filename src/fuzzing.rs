//! What strangers feed herd, each as a function of any bytes that panics where herd breaks a promise.
//!
//! `tests/fuzz` runs them with libFuzzer; `cargo test` replays the inputs that are kept there. The functions stand
//! beside what they examine, in the modules named `fuzz`, and are compiled for these two uses only.

pub use crate::access::fuzz::token;
pub use crate::bundle::fuzz::{archive, compressed, document, layer, packages, program, recipe, reference};
pub use crate::config::fuzz::config;
pub use crate::control::fuzz::{control, exec, history};
pub use crate::launcher::fuzz::wire;
pub use crate::proxy::fuzz::{answer, entry, gate, http1, session, websocket};
pub use crate::sandbox::seccomp::fuzz::seccomp;
pub use crate::worker::fuzz::report;

#[cfg(test)]
mod replay {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    type Target = (&'static str, fn(&[u8]));

    /// Every target by its name in `tests/fuzz`.
    const TARGETS: &[Target] = &[
        ("answer", super::answer),
        ("archive", super::archive),
        ("compressed", super::compressed),
        ("config", super::config),
        ("control", super::control),
        ("document", super::document),
        ("entry", super::entry),
        ("exec", super::exec),
        ("gate", super::gate),
        ("history", super::history),
        ("http1", super::http1),
        ("layer", super::layer),
        ("packages", super::packages),
        ("program", super::program),
        ("recipe", super::recipe),
        ("reference", super::reference),
        ("report", super::report),
        ("seccomp", super::seccomp),
        ("session", super::session),
        ("token", super::token),
        ("websocket", super::websocket),
        ("wire", super::wire),
    ];

    fn files(directory: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(directory) else {
            return Vec::new();
        };
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn fuzz(below: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fuzz")
            .join(below)
    }

    #[test]
    fn every_kept_input_keeps_the_promises() {
        for (name, target) in TARGETS {
            let kept = files(&fuzz("corpus").join(name));
            assert!(!kept.is_empty(), "tests/fuzz/corpus/{name} has no inputs");
            for path in kept.into_iter().chain(files(&fuzz("regressions").join(name))) {
                // The harness shows it with the failure, and with no success.
                eprintln!("{}", path.display());
                target(&fs::read(&path).unwrap());
            }
        }
    }

    #[test]
    fn every_target_is_fuzzed_and_replayed() {
        let known: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        let stems = |below: &str| -> BTreeSet<String> {
            let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
            files(&fuzz(below)).into_iter().map(stem).collect()
        };
        assert_eq!(stems("targets"), known);
        assert_eq!(stems("corpus"), known);
        assert!(
            stems("regressions").is_subset(&known),
            "inputs that nothing replays"
        );
        let manifest = fs::read_to_string(fuzz("Cargo.toml")).unwrap();
        for name in known {
            assert!(
                manifest.contains(&format!("path = \"targets/{name}.rs\"")),
                "{name} is not built"
            );
        }
    }
}
