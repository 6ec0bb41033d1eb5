//! The head of an answer, as far as a load generator has to know it.

use anyhow::{Context, bail};

const MOST_FIELDS: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Bytes of the head.
    pub(super) head: usize,
    /// Bytes of the body.
    pub(super) length: u64,
}

impl Answer {
    /// `None` while the head is incomplete.
    ///
    /// # Errors
    /// It is no HTTP, or its body is framed otherwise than by the length that the upstream states: a proxy that
    /// changes it would do other work than the rest.
    pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<Option<Self>> {
        let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(head) = response.parse(bytes).context("not an HTTP answer")? else {
            return Ok(None);
        };
        let status = response.code.context("no status")?;
        let length = response
            .headers
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case("content-length"));
        let length = match length {
            Some(length) => std::str::from_utf8(length.value)?.parse()?,
            None if status == 101 => 0,
            None => bail!("an answer ({status}) without Content-Length"),
        };
        Ok(Some(Self { status, head, length }))
    }

    /// Of the whole answer.
    pub(super) fn total(&self) -> u64 {
        self.head as u64 + self.length
    }
}
