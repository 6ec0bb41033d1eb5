//! The small languages: references, platforms, digests, challenges, escaped names.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use crate::bundle::content::{Sha256Digest, escape, unescape};
use crate::bundle::image::Platform;
use crate::bundle::registry::{Reference, fuzz as registry};

pub fn reference(input: &[u8]) {
    let shown = escape(OsStr::from_bytes(input));
    assert!(!shown.contains(char::is_control));
    assert_eq!(unescape(&shown).unwrap().as_os_str().as_bytes(), input, "{shown}");

    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(reference) = text.parse::<Reference>() {
        let written = reference.to_string();
        let again: Reference = written.parse().unwrap();
        assert_eq!(again, reference, "{written}");
        assert!(
            !reference
                .repository
                .split('/')
                .any(|part| matches!(part, "" | "." | ".."))
        );
        assert!(reference.registry.len() + reference.repository.len() <= 255);
        assert!(written.is_ascii() || !reference.registry.is_ascii(), "{written}");
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse::<Platform>().unwrap(), platform);
    }
    if let Ok(digest) = text.parse::<Sha256Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    registry::challenge(text);
}
