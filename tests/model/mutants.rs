//! Copies herd's lock-free files for the models, once as they are and once per mutation: one mistake that somebody
//! could make in them. A mutation whose text is not found exactly once fails the build, so none goes stale.

use std::path::{Path, PathBuf};
use std::{env, fs};

const FILES: [&str; 4] = [
    "core/holders.rs",
    "core/ids.rs",
    "driver/attention.rs",
    "driver/departures.rs",
];

/// Name, file, text, and what stands there instead.
const MUTATIONS: [(&str, &str, &str, &str); 15] = [
    (
        "acquire_after_close",
        "core/holders.rs",
        "if word & CLOSED != 0 || full {",
        "if full {",
    ),
    (
        "enter_after_close",
        "core/holders.rs",
        "(word & CLOSED == 0 && !full).then(|| word + GUEST_ONE)",
        "(!full).then(|| word + GUEST_ONE)",
    ),
    (
        "guest_unheard",
        "core/holders.rs",
        "match after & CLOSED != 0 && after & (GUEST_MASK | COUNT_MASK) == 0 {",
        "match after & CLOSED != 0 && before & (GUEST_MASK | COUNT_MASK) == 0 {",
    ),
    (
        "close_without_looking_again",
        "core/holders.rs",
        "self.change_if(|s| !s.closed && s.sequence == sequence, |word| word | CLOSED)",
        "{ let _ = sequence; self.word.fetch_or(CLOSED, Ordering::AcqRel); true }",
    ),
    (
        "leave_whoever_came",
        "core/holders.rs",
        "!s.closed && s.sequence == after.sequence;",
        "!s.closed;",
    ),
    (
        "leave_whoever_closed",
        "core/holders.rs",
        "!s.closed && s.sequence == after.sequence;",
        "s.sequence == after.sequence;",
    ),
    (
        "count_before_moment",
        "core/holders.rs",
        "        self.last_release.fetch_max(micros(now), Ordering::Release);\n        match kind {\n            HolderKind::Hold => 1 + HOLD_ONE,",
        "        self.word.fetch_sub(1, Ordering::AcqRel);\n        self.last_release.fetch_max(micros(now), Ordering::Release);\n        self.word.fetch_add(1, Ordering::AcqRel);\n        match kind {\n            HolderKind::Hold => 1 + HOLD_ONE,",
    ),
    (
        "moment_read_before_count",
        "core/holders.rs",
        "        let seen = self.snapshot();\n        if seen.holders > 0 {\n            return Idle::LookAgain(now + ttl);\n        }",
        "        let early = self.last_release();\n        let seen = self.snapshot();\n        if seen.holders > 0 {\n            return Idle::LookAgain(now + ttl);\n        }\n        if early + ttl <= now && self.close_if_unchanged(seen.sequence) { return Idle::Closed; }",
    ),
    (
        "relaxed_release",
        "core/holders.rs",
        "let before = self.word.fetch_sub(one, Ordering::AcqRel);",
        "let before = self.word.fetch_sub(one, Ordering::Relaxed);",
    ),
    (
        "end_unheard",
        "core/holders.rs",
        "after & (NOTIFY | CLOSED) != 0",
        "after & NOTIFY != 0",
    ),
    (
        "quieten_whoever_came",
        "core/holders.rs",
        "self.change_if(|s| s.sequence == sequence, |word| word & !NOTIFY);",
        "{ let _ = sequence; self.word.fetch_and(!NOTIFY, Ordering::AcqRel); }",
    ),
    (
        "unanswered_in_two_steps",
        "core/holders.rs",
        "        let one = self.leaving(kind, now);\n        let without",
        "        if self.snapshot().holders > 1 { return self.release(kind, now); }\n        let one = self.leaving(kind, now);\n        let without",
    ),
    (
        "listed_stays_set_during_the_look",
        "driver/attention.rs",
        "            listed(&session).0.swap(false, Ordering::AcqRel);\n            look(session);",
        "            let listed = listed(&session) as *const Listed;\n            look(session);\n            #[allow(unsafe_code)]\n            unsafe { &*listed }.0.swap(false, Ordering::AcqRel);",
    ),
    (
        "listed_cleared_by_a_store",
        "driver/attention.rs",
        "listed(&session).0.swap(false, Ordering::AcqRel);",
        "listed(&session).0.store(false, Ordering::Release);",
    ),
    (
        "departure_announced_by_a_store",
        "driver/departures.rs",
        "self.0.swap(true, Ordering::AcqRel);",
        "self.0.store(true, Ordering::Release);",
    ),
];

fn main() {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let source = here.join("../../src");
    let mut modules = variant(&source, &out, &here, "real", None);
    for mutation @ (name, ..) in &MUTATIONS {
        modules.push_str(&variant(&source, &out, &here, name, Some(mutation)));
    }
    fs::write(out.join("variants.rs"), modules).expect("OUT_DIR is writable");
    println!("cargo::rerun-if-changed=mutants.rs");
}

/// One copy of the files, and the modules that hold it as herd's own do.
fn variant(
    source: &Path,
    out: &Path,
    here: &Path,
    name: &str,
    mutation: Option<&(&str, &str, &str, &str)>,
) -> String {
    for file in FILES {
        let path = source.join(file);
        println!("cargo::rerun-if-changed={}", path.display());
        let mut text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        // herd's own unit tests know nothing of loom.
        text.truncate(text.find("#[cfg(test)]").unwrap_or(text.len()));
        if let Some((name, of, from, to)) = mutation
            && *of == file
        {
            let found = text.matches(from).count();
            assert_eq!(found, 1, "mutation {name}: its text is in {file} {found} times");
            text = text.replace(from, to);
        }
        let copy = out.join(name).join(file);
        fs::create_dir_all(copy.parent().expect("a file in a directory")).expect("OUT_DIR is writable");
        fs::write(copy, text).expect("OUT_DIR is writable");
    }
    let at = |file: &str| out.join(name).join(file).display().to_string();
    let own = |file: &str| here.join("src").join(file).display().to_string();
    format!(
        r#"
pub(crate) mod {name} {{
    pub(crate) mod core {{
        mod atomic {{ pub(super) use loom::sync::atomic::{{AtomicBool, AtomicU32, AtomicU64, Ordering}}; }}
        #[path = {:?}] mod holders;
        #[path = {:?}] mod ids;
        pub(crate) use holders::*;
        pub(crate) use ids::Moment;
    }}
    pub(crate) mod driver {{
        pub(crate) mod sync {{ pub(crate) use crate::notify::Notify; pub(crate) use loom::sync::atomic::{{AtomicBool, Ordering}}; pub(crate) use loom::sync::{{Mutex, MutexGuard}}; pub(crate) use std::sync::PoisonError; }}
        #[path = {:?}] mod attention;
        #[path = {:?}] mod departures;
        #[path = {:?}] pub(crate) mod models;
    }}
}}
"#,
        at("core/holders.rs"),
        at("core/ids.rs"),
        at("driver/attention.rs"),
        at("driver/departures.rs"),
        own("models.rs"),
    )
}
