//! What a test does that cannot run here.

use std::io::Write;

/// Says so past the test harness, which keeps what passing tests print to itself. Fails where the environment
/// variable `CI` is set: nobody reads a green run.
pub(crate) fn skipped(why: &str) {
    let test = std::thread::current()
        .name()
        .unwrap_or("an unnamed thread")
        .to_owned();
    let said = format!("SKIPPED: {test}: {why}");
    assert!(
        std::env::var_os("CI").is_none_or(|value| value.is_empty()),
        "{said}; and CI is set, where nothing may be skipped"
    );
    // Not `eprintln!`, which is captured.
    writeln!(std::io::stderr(), "{said}").expect("stderr can be written to");
}
