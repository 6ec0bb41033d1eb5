//! Names of things. Every id is its own type, so that no two can be confused.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a session goes by: the id that its client chose, 1–128 bytes of `[A-Za-z0-9._~-]`, case-sensitive; with `auth`
/// in herd.yaml after the principal whose it is, as in `alice/user-42`, so that the ids of two principals are never one.
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Arc<str>);

/// Why a string is not a session id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidSessionId {
    Empty,
    TooLong {
        len: usize,
    },
    BadByte {
        at: usize,
        byte: u8,
    },
    /// `.` or `..`, which lead elsewhere where an id is part of a path.
    Dots,
    /// What stands before the slash is no name of a principal.
    BadPrincipal,
}

/// [`is_name`] as a regular expression, for the schemas.
pub const NAME_PATTERN: &str = "^[a-z0-9][a-z0-9_-]{0,62}$";

/// Whether principals, keys and kinds of workers may be called so: 1–63 bytes of `[a-z0-9_-]`, a letter or digit first.
pub fn is_name(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 63
        && name.bytes().next().is_some_and(word)
        && name.bytes().all(|b| word(b) || matches!(b, b'_' | b'-'))
}

impl SessionId {
    /// Longest id of a client's choice, in bytes.
    pub const MAX_LEN: usize = 128;

    /// Checks a client's id without allocating.
    pub fn check(id: &[u8]) -> Result<&str, InvalidSessionId> {
        if id.is_empty() {
            return Err(InvalidSessionId::Empty);
        }
        if id.len() > Self::MAX_LEN {
            return Err(InvalidSessionId::TooLong { len: id.len() });
        }
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-');
        if let Some(at) = id.iter().position(|b| !allowed(b)) {
            return Err(InvalidSessionId::BadByte { at, byte: id[at] });
        }
        if matches!(id, b"." | b"..") {
            return Err(InvalidSessionId::Dots);
        }
        // Every allowed byte is ASCII, so this cannot fail; no unchecked conversion is needed for that.
        std::str::from_utf8(id).map_err(|_| InvalidSessionId::Empty)
    }

    /// `id` or `principal/id`.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidSessionId> {
        let Some(slash) = text.iter().position(|b| *b == b'/') else {
            return Self::check(text).map(|id| Self(Arc::from(id)));
        };
        let principal = std::str::from_utf8(&text[..slash]).unwrap_or_default();
        if !is_name(principal) {
            return Err(InvalidSessionId::BadPrincipal);
        }
        let id = Self::check(&text[slash + 1..])?;
        Ok(Self(format!("{principal}/{id}").into()))
    }

    /// The same id as a session of this principal.
    #[must_use]
    pub fn of(&self, principal: &str) -> Self {
        Self(format!("{principal}/{}", self.id()).into())
    }

    /// Principal and id; the data plane looks sessions up by it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the client chose.
    pub fn id(&self) -> &str {
        Self::parts(&self.0).1
    }

    /// Whose it is; `None` without `auth`.
    pub fn principal(&self) -> Option<&str> {
        Self::parts(&self.0).0
    }

    /// Principal and id of a name that is known to be one.
    pub fn parts(name: &str) -> (Option<&str>, &str) {
        match name.split_once('/') {
            Some((principal, id)) => (Some(principal), id),
            None => (None, name),
        }
    }
}

impl std::borrow::Borrow<str> for SessionId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for InvalidSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the session id is empty"),
            Self::TooLong { len } => {
                write!(
                    f,
                    "the session id is {len} bytes long; the limit is {}",
                    SessionId::MAX_LEN
                )
            }
            Self::BadByte { at, byte } => write!(
                f,
                "byte {at} of the session id is '{}'; allowed are A-Z a-z 0-9 . _ ~ -",
                byte.escape_ascii()
            ),
            Self::Dots => f.write_str("the session id is . or .., which as parts of a path are no names"),
            Self::BadPrincipal => f.write_str(
                "what stands before the slash is no name of a principal: 1 to 63 of a-z 0-9 _ -, a letter or digit first",
            ),
        }
    }
}

impl std::error::Error for InvalidSessionId {}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

number_id! {
    /// One worker, unique for the life of this herd process; never reused.
    WorkerId(u64), "w"
}
number_id! {
    /// Counts incarnations of sessions; a later session of the same id has a higher generation, so a
    /// stale timer or a late release can never touch a successor.
    Generation(u64), "g"
}
number_id! {
    /// One waiting request.
    TicketId(u64), "t"
}
number_id! {
    /// A worker kind: a number that its name keeps for the life of this herd, whatever configurations come.
    KindId(usize), "k"
}
number_id! {
    /// Counts the configurations that this herd has had, from 1. A worker is of the one it was started under.
    ConfigGeneration(u64), "c"
}

/// One incarnation of a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionRef {
    pub id: SessionId,
    pub generation: Generation,
}

/// Monotonic time since herd's own start. The core never reads a clock; it is told the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub Duration);

impl Moment {
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Moment;

    /// Saturates: a deadline beyond the representable range never comes.
    fn add(self, d: Duration) -> Moment {
        Moment(self.0.saturating_add(d))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_is_1_to_128_unreserved_bytes() {
        assert_eq!(SessionId::check(b"user-42._~Z"), Ok("user-42._~Z"));
        assert_eq!(SessionId::check(&[b'a'; 128]).map(str::len), Ok(128));
        assert_eq!(SessionId::check(b""), Err(InvalidSessionId::Empty));
        // `cwd: /data/{{.Principal}}/{{.SessionID}}` must not lead to another's.
        for dots in [&b"."[..], b".."] {
            assert_eq!(SessionId::check(dots), Err(InvalidSessionId::Dots));
        }
        assert_eq!(SessionId::parse(b"alice/.."), Err(InvalidSessionId::Dots));
        assert_eq!(SessionId::check(b"..."), Ok("..."));
        assert_eq!(
            SessionId::check(&[b'a'; 129]),
            Err(InvalidSessionId::TooLong { len: 129 })
        );
        assert_eq!(
            SessionId::check(b"a b"),
            Err(InvalidSessionId::BadByte { at: 1, byte: b' ' })
        );
        assert_eq!(
            SessionId::check("ü".as_bytes()),
            Err(InvalidSessionId::BadByte { at: 0, byte: 0xc3 })
        );
        assert_eq!(
            SessionId::check(b"alice/a"),
            Err(InvalidSessionId::BadByte { at: 5, byte: b'/' }),
            "no client chooses a principal"
        );
    }

    #[test]
    fn the_ids_of_two_principals_are_never_one() {
        let plain = SessionId::parse(b"user-42").unwrap();
        let (alice, bob) = (plain.of("alice"), plain.of("bob"));
        assert_eq!((plain.principal(), plain.id()), (None, "user-42"));
        assert_eq!((alice.principal(), alice.id()), (Some("alice"), "user-42"));
        assert!(alice != bob && alice != plain);
        assert_eq!(SessionId::parse(b"alice/user-42"), Ok(alice.clone()));
        assert_eq!(alice.of("bob"), bob);
        for wrong in ["/a", "A/a", "-/a", "a b/a", &format!("{}/a", "a".repeat(64))] {
            assert_eq!(
                SessionId::parse(wrong.as_bytes()),
                Err(InvalidSessionId::BadPrincipal),
                "{wrong}"
            );
        }
        assert_eq!(SessionId::parse(b"a/"), Err(InvalidSessionId::Empty));
        assert_eq!(
            SessionId::parse(b"a/b/c"),
            Err(InvalidSessionId::BadByte { at: 1, byte: b'/' })
        );
    }
}
