//! One account of bytes for all that an image makes herd read or unpack.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use sha2::{Digest as _, Sha256};

use crate::bundle::content::Sha256Digest;
use crate::sys::interrupt;

/// A reader that hashes and counts; it fails beyond its limit and when the user interrupts.
#[derive(Debug)]
pub(super) struct Metered<R> {
    source: R,
    hash: Sha256,
    count: Rc<Cell<u64>>,
    limit: Limit,
}

/// Where a [`Metered`] ends; also the error it gives beyond that, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Limit {
    #[error("it is larger than the {0} bytes that were announced")]
    Announced(u64),
    #[error("the image has more than {0} bytes unpacked; --max-size raises the limit")]
    Unpacked(u64),
    #[error("unlimited")]
    None,
}

impl<R: Read> Metered<R> {
    pub(super) fn new(source: R, limit: Limit) -> Self {
        Self {
            source,
            hash: Sha256::new(),
            count: Rc::default(),
            limit,
        }
    }

    /// Counts from `count` on: what others have used up already.
    pub(super) fn starting_at(self, count: u64) -> Self {
        self.count.set(count);
        self
    }

    /// How many bytes came through so far; stays up to date.
    pub(super) fn counter(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.count)
    }

    /// Reads what is left, then: how many bytes there were, and their digest.
    pub(super) fn finish(mut self) -> io::Result<(u64, Sha256Digest)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((self.count.get(), Sha256Digest(self.hash.finalize().into())))
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        interrupt::check().map_err(io::Error::other)?;
        let read = self.source.read(buffer)?;
        self.hash.update(&buffer[..read]);
        let count = self.count.get() + read as u64;
        self.count.set(count);
        match self.limit {
            Limit::Announced(most) | Limit::Unpacked(most) if count > most => {
                Err(io::Error::other(self.limit))
            }
            _ => Ok(read),
        }
    }
}
