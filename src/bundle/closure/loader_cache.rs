//! `/etc/ld.so.cache` for the bundle.
//!
//! glibc's loader looks into a few built-in directories and into this cache, never into ld.so.conf. A
//! library that this machine's cache knows from elsewhere would not be found without one, and writing it
//! with ldconfig(8) would take root and running a program inside the bundle.
//!
//! The format is that of glibc's `sysdeps/generic/dl-cache.h` ("new format"): a header, the entries in
//! the descending order of the loader's own comparison, then the strings they point to.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 20] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// What the loader wants to see on its libraries (`_DL_CACHE_DEFAULT_ID`); without one, no cache.
const FLAGS: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0x0303)
} else if cfg!(target_arch = "aarch64") {
    Some(0x0a03)
} else {
    None
};

/// Library names, and the path the loader opens for each.
#[derive(Debug, Default)]
pub(super) struct Opened {
    paths: BTreeMap<String, PathBuf>,
}

impl Opened {
    pub(super) fn insert(&mut self, name: &str, path: &Path) {
        if !name.contains('/') {
            self.paths
                .entry(name.to_owned())
                .or_insert_with(|| path.to_owned());
        }
    }

    /// The cache; `None` if there is nothing to write or this machine's format is not known here.
    pub(super) fn cache(&self) -> Option<Vec<u8>> {
        let flags = FLAGS?;
        if self.paths.is_empty() {
            return None;
        }
        let mut libraries: Vec<(&str, &Path)> = self
            .paths
            .iter()
            .map(|(name, path)| (name.as_str(), path.as_path()))
            .collect();
        libraries.sort_by(|a, b| compare(b.0.as_bytes(), a.0.as_bytes()));

        let strings_at = HEADER + ENTRY * libraries.len();
        let mut strings: Vec<u8> = Vec::new();
        let mut put = |text: &str| {
            let at = strings_at + strings.len();
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            u32::try_from(at).ok()
        };
        let mut entries = Vec::with_capacity(ENTRY * libraries.len());
        for (name, path) in &libraries {
            let (key, value) = (put(name)?, put(path.to_str()?)?);
            for word in [flags, key, value, 0, 0, 0] {
                entries.extend_from_slice(&word.to_ne_bytes());
            }
        }
        let mut cache = Vec::with_capacity(strings_at + strings.len());
        cache.extend_from_slice(MAGIC);
        cache.extend_from_slice(&u32::try_from(libraries.len()).ok()?.to_ne_bytes());
        cache.extend_from_slice(&u32::try_from(strings.len()).ok()?.to_ne_bytes());
        // The byte order: little (2) or big (3); then no extensions.
        cache.push(if cfg!(target_endian = "little") { 2 } else { 3 });
        cache.resize(HEADER, 0);
        cache.extend_from_slice(&entries);
        cache.extend_from_slice(&strings);
        Some(cache)
    }
}

/// The loader's order (`_dl_cache_libcmp`): digits as numbers, and after everything that is none.
pub(super) fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        match (a.first(), b.first()) {
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let order = number(&mut a).cmp(&number(&mut b));
                if order != Ordering::Equal {
                    return order;
                }
            }
            (Some(x), _) if x.is_ascii_digit() => return Ordering::Greater,
            (Some(_), Some(y)) if y.is_ascii_digit() => return Ordering::Less,
            (Some(x), Some(y)) if x == y => (a, b) = (&a[1..], &b[1..]),
            (x, y) => return x.cmp(&y),
        }
    }
}

fn number(text: &mut &[u8]) -> u64 {
    let mut value: u64 = 0;
    while let Some((digit, rest)) = text.split_first()
        && digit.is_ascii_digit()
    {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        *text = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn opened(names: &[&str]) -> Opened {
        let mut opened = Opened::default();
        for name in names {
            opened.insert(name, &Path::new("/opt/lib").join(name));
        }
        opened
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let mut names = ["libx.so.10", "libx.so.9", "libx-1.so", "libx.so", "liba.so.1"];
        names.sort_by(|a, b| compare(a.as_bytes(), b.as_bytes()));
        assert_eq!(
            names,
            ["liba.so.1", "libx-1.so", "libx.so", "libx.so.9", "libx.so.10"]
        );
    }

    #[test]
    fn the_first_path_of_a_name_stays() {
        let mut opened = opened(&["libx.so.1"]);
        opened.insert("libx.so.1", Path::new("/elsewhere/libx.so.1"));
        assert_eq!(opened.paths["libx.so.1"], Path::new("/opt/lib/libx.so.1"));
    }

    #[test]
    fn ldconfig_reads_the_cache() {
        if FLAGS.is_none() {
            return crate::skip::skipped("the loader cache of this architecture is not written");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        std::fs::write(&path, opened(&["libx.so.10", "libx.so.9"]).cache().unwrap()).unwrap();
        let output = Command::new("/sbin/ldconfig")
            .arg("-p")
            .arg("-C")
            .arg(&path)
            .output();
        let Ok(output) = output else {
            return crate::skip::skipped("no /sbin/ldconfig");
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<_> = text.lines().skip(1).map(str::trim).collect();
        assert_eq!(
            lines[..2],
            [
                "libx.so.10 (libc6,x86-64) => /opt/lib/libx.so.10",
                "libx.so.9 (libc6,x86-64) => /opt/lib/libx.so.9",
            ],
            "{text}"
        );
    }
}
