//! `WWW-Authenticate` from any text.

use super::challenge::{Challenge, parse};

pub(crate) fn challenge(header: &str) {
    if let Some(Challenge::Bearer { realm, service }) = parse(header) {
        let taken = realm.len() + service.map_or(0, |s| s.len());
        assert!(taken < header.len(), "more was read than was there");
    }
}
