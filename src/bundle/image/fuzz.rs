//! Archives, layers, documents and what compresses them, from any bytes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a fuzzer is told"
)]

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::account::{Limit, Metered};
use super::compression::decoder;
use super::document::{Configuration, DOCUMENT_MAX, Descent, Platform, Step};
use super::layer::{Notes, apply};
use super::stream::{MemberKind, Stream, StreamError};
use crate::bundle::content::{Entry, size};
use crate::bundle::root::{Limits, Root};

/// Decompressed bytes that are looked at; any input can stand for terabytes.
const PLAIN_MAX: u64 = 4 << 20;

/// Gives one byte at a time.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let here = buffer.len().min(1);
        self.0.read(&mut buffer[..here])
    }
}

type Members = Vec<(Vec<u8>, MemberKind, Vec<u8>)>;

/// Name, kind and content of all members before the first mistake.
fn members(archive: impl Read) -> (Members, Result<(), StreamError>) {
    let mut stream = Stream::new(archive);
    let mut found = Vec::new();
    loop {
        let member = match stream.next() {
            Ok(Some(member)) => member,
            Ok(None) => return (found, Ok(())),
            Err(error) => return (found, Err(error)),
        };
        let mut content = Vec::new();
        if stream.read_to_end(&mut content).is_err() {
            return (found, Err(StreamError::CutOff));
        }
        assert_eq!(content.len() as u64, member.size);
        found.push((member.name, member.kind, content));
    }
}

/// A tar archive.
pub fn archive(input: &[u8]) {
    let (found, end) = members(input);
    let (trickled, trickled_end) = members(Trickle(input));
    assert_eq!(found, trickled, "in small pieces it is another archive");
    assert_eq!(format!("{end:?}"), format!("{trickled_end:?}"));
    let bytes: usize = found.iter().map(|(_, _, content)| content.len()).sum();
    assert!(bytes <= input.len(), "{bytes} bytes of content");
    if end.is_ok() {
        // Where the crate's own reader gets to the end, too, nothing is a member to one of them only.
        let mut theirs = tar::Archive::new(input);
        let theirs: io::Result<Members> = theirs
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry?;
                let name = entry.path_bytes().into_owned();
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                Ok((name, MemberKind::File, content))
            })
            .collect();
        if let Ok(theirs) = theirs {
            let plain = |members: &Members| -> Vec<_> {
                members
                    .iter()
                    // Of the NULs that end a GNU long name the crate takes away one, herd all.
                    .map(|(name, _, content)| (before_nuls(name), content.clone()))
                    .collect()
            };
            assert_eq!(plain(&found), plain(&theirs));
        }
    }
}

fn before_nuls(name: &[u8]) -> Vec<u8> {
    let end = name
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    name[..end].to_vec()
}

/// A layer, applied to a root filesystem.
pub fn layer(input: &[u8]) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let limits = Limits {
        bytes: 64 << 10,
        entries: 64,
    };
    let name = format!(
        "herd-fuzz-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let outside = Scratch(std::env::temp_dir().join(name));
    let inside = outside.0.join("root");
    fs::create_dir_all(&inside).unwrap();
    let mut root = Root::new(OwnedFd::from(File::open(&inside).unwrap()), &inside, limits);
    let mut notes = Notes::default();
    let applied = apply(input, &mut root, &mut notes).is_ok()
        // A second layer meets what the first one left.
        && apply(input, &mut root, &mut notes).is_ok();
    let around: Vec<_> = fs::read_dir(&outside.0)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(around, ["root"], "something was written outside");
    assert!(notes.lines().iter().all(|line| !line.contains(char::is_control)));
    if applied {
        let entries = root.seal().unwrap();
        assert!(size(&entries) <= limits.bytes);
        for (path, entry) in &entries {
            let on_disk = fs::symlink_metadata(inside.join(path)).unwrap();
            match entry {
                Entry::Directory { .. } => assert!(on_disk.is_dir(), "{path:?}"),
                Entry::Link { .. } => assert!(on_disk.is_symlink(), "{path:?}"),
                Entry::File { .. } => assert!(on_disk.is_file(), "{path:?}"),
            }
        }
        let mut listed: Vec<PathBuf> = Vec::new();
        list(&inside, &inside, &mut listed);
        assert!(
            listed.iter().all(|path| entries.contains_key(path)),
            "more is there than is known"
        );
    }
}

fn list(root: &Path, directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        into.push(entry.path().strip_prefix(root).unwrap().to_owned());
        if entry.file_type().unwrap().is_dir() {
            list(root, &entry.path(), into);
        }
    }
}

/// A directory that goes with its owner, a panicking one included.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Something compressed, or not.
pub fn compressed(input: &[u8]) {
    let plain = |source: &mut dyn Read| {
        let mut plain = Vec::new();
        let read = decoder(Metered::new(source, Limit::None))
            .and_then(|decoder| decoder.take(PLAIN_MAX).read_to_end(&mut plain));
        (plain, read.is_ok())
    };
    let whole = plain(&mut &*input);
    if input.len() <= 4096 {
        let trickled = plain(&mut Trickle(input));
        assert_eq!(whole.1, trickled.1, "in small pieces it is no longer what it was");
        // How much comes before a mistake depends on what was at hand.
        assert!(
            !whole.1 || whole.0 == trickled.0,
            "in small pieces it is something else"
        );
    }
    assert!(whole.0.len() as u64 <= PLAIN_MAX);
    let mut limited = Metered::new(&*whole.0, Limit::Unpacked(100));
    let copied = io::copy(&mut limited, &mut io::sink());
    assert_eq!(copied.is_ok(), whole.0.len() <= 100, "a limit does not hold");
}

/// Index, manifest or configuration; lines that begin with `---` separate documents of one descent.
pub fn document(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut descent = Descent::new(Platform::host());
    for (number, text) in text.split("\n---\n").enumerate() {
        match descent.step(&number.to_string(), text.as_bytes()) {
            Ok(Step::Next(next)) => assert!(next.size <= DOCUMENT_MAX),
            Ok(Step::Image(manifest)) => {
                assert!(manifest.config.size <= DOCUMENT_MAX);
                assert!(manifest.layers.len() <= 500);
                let both: serde_json::Value = serde_json::from_str(text).unwrap();
                assert!(both["manifests"].is_null(), "it could also be an index");
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        let repeated = descent.step(&number.to_string(), text.as_bytes());
        assert!(repeated.is_err(), "an index may contain itself");
    }
    if let Ok(configuration) = Configuration::parse(input, "it") {
        let _ = configuration.check_platform(&Platform::host());
        assert!(configuration.rootfs.diff_ids.len() <= input.len() / 64);
    }
}
