//! Credentials, from any bytes: the subject of `crate::fuzzing` in this module.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a fuzzer is told"
)]

use std::sync::LazyLock;

use super::token::{Claims, Rejection, Signer};
use crate::core::SessionId;

static SIGNER: LazyLock<Signer> = LazyLock::new(|| Signer::new(&[7; 32], &[vec![8; 32]]));

/// A token to be refused, and claims to be signed.
pub fn token(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    // Nobody finds a signature.
    assert_eq!(SIGNER.verify(text, 8080, 0), Err(Rejection::Forged));
    let mut lines = text.lines();
    let session = lines
        .next()
        .and_then(|line| SessionId::parse(line.as_bytes()).ok());
    let Some(session) = session.filter(|session| session.principal().is_some()) else {
        return;
    };
    let number = |line: Option<&str>| line.and_then(|line| line.parse::<u64>().ok());
    let claims = Claims {
        session,
        worker: lines
            .next()
            .filter(|kind| crate::core::is_name(kind))
            .map(str::to_owned),
        expires: number(lines.next()).unwrap_or(1),
        port: 8080,
    };
    let token = SIGNER.sign(&claims);
    let expected = match claims.expires {
        0 => Err(Rejection::Expired),
        // A day, and a minute for clocks.
        86_460_001.. => Err(Rejection::TooLong),
        _ => Ok(claims),
    };
    assert_eq!(SIGNER.verify(&token, 8080, 0), expected);
    // What is asked for decides where the token is changed.
    let at = input.len() % token.len();
    let mut changed = token.into_bytes();
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    assert_eq!(SIGNER.verify(&changed, 8080, 0), Err(Rejection::Forged));
}
