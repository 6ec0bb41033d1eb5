//! Programs and package lists of this machine, from any bytes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a fuzzer is told"
)]

use std::path::Path;

use super::elf::Elf;
use super::{loader_cache, script};

pub use super::packages::fuzz::packages;

/// An executable: ELF or script; and the order of library names.
pub fn program(input: &[u8]) {
    if let Some(found) = script::interpreter(input) {
        assert!(found.path.is_absolute());
        assert!(found.looked_up.is_none_or(|name| !name.contains('\n')));
    }
    if let Ok(Some(elf)) = Elf::parse(std::io::Cursor::new(input)) {
        for name in elf
            .needed
            .iter()
            .chain(&elf.rpath)
            .chain(elf.runpath.iter().flatten())
        {
            // A byte that is no UTF-8 is shown by three.
            assert!(name.len() <= 3 * input.len() && !name.contains('\0'));
        }
        let at = Path::new("/usr/bin/program");
        for path in elf.rpath_at(at).into_iter().chain(elf.runpath_at(at)) {
            assert!(path.is_absolute(), "{path:?}");
        }
        assert!(elf.runpath.is_none() || elf.rpath_at(at).is_empty());
    }
    let mut names: Vec<&[u8]> = input.split(|b| matches!(b, 0 | b'\n')).take(16).collect();
    // Panics where the order contradicts itself.
    names.sort_by(|a, b| loader_cache::compare(a, b));
    for pair in names.windows(2) {
        let order = loader_cache::compare(pair[0], pair[1]);
        assert!(order.is_le() && order == loader_cache::compare(pair[1], pair[0]).reverse());
    }
}
