//! Small writes made of several pieces, such as a head and a short body.
//!
//! The kernel takes one small buffer faster than a list of them: a message of a few hundred bytes costs less
//! to copy than the list costs to check.

use std::io::IoSlice;

/// Most bytes that are copied together.
const SMALL: usize = 2048;

/// What is to be written.
#[derive(Debug)]
pub(crate) enum Gathered<'a> {
    One(&'a [u8]),
    Many(&'a [IoSlice<'a>]),
}

/// Calls `write` with the pieces, as one if they are few bytes.
pub(crate) fn write<R>(pieces: &[IoSlice<'_>], write: impl FnOnce(Gathered<'_>) -> R) -> R {
    let mut filled = pieces.iter().filter(|piece| !piece.is_empty());
    match (filled.next(), filled.next()) {
        (None, _) => return write(Gathered::One(&[])),
        (Some(only), None) => return write(Gathered::One(only)),
        _ => {}
    }
    let total: usize = pieces.iter().map(|piece| piece.len()).sum();
    if total > SMALL {
        return write(Gathered::Many(pieces));
    }
    let mut whole = [0; SMALL];
    let mut at = 0;
    for piece in pieces {
        whole[at..at + piece.len()].copy_from_slice(piece);
        at += piece.len();
    }
    write(Gathered::One(&whole[..total]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_one(pieces: &[&[u8]]) -> Option<Vec<u8>> {
        let pieces: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        write(&pieces, |gathered| match gathered {
            Gathered::One(bytes) => Some(bytes.to_vec()),
            Gathered::Many(_) => None,
        })
    }

    #[test]
    fn small_pieces_are_written_as_one() {
        assert_eq!(as_one(&[b"head", b"", b"body"]), Some(b"headbody".to_vec()));
        assert_eq!(as_one(&[]), Some(Vec::new()));
        let half = [1; SMALL / 2];
        assert_eq!(as_one(&[&half, &half]), Some(vec![1; SMALL]));
    }

    #[test]
    fn large_pieces_are_not_copied_together() {
        assert_eq!(as_one(&[&[1; SMALL], b"x"]), None);
        let alone = [1; 2 * SMALL];
        assert_eq!(as_one(&[b"", &alone]), Some(alone.to_vec()));
    }
}
