//! Tokens: for one session, for a while, without the key.
//!
//! ```text
//! herd1.<claims>.<signature>       both in base64url without padding (RFC 4648, 5)
//! claims     principal/session kind expires port     kind: a name or *; expires: milliseconds since 1970
//! signature  HMAC-SHA-256 of everything before its dot, as it stands there
//! ```
//!
//! The signature is checked before anything is read, so nothing of a forged token is understood; and of the text itself,
//! so there is no second way to write the same claims. There is one algorithm, and no field to choose another.

use std::fmt;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::keys::{self, BadSecret, SecretError};
use crate::config::{Step, TokenSecret};
use crate::core::SessionId;

/// What every token begins with, and no key that herd makes.
pub(crate) const PREFIX: &str = "herd1.";
/// Shorter secrets could be guessed from one token, without asking herd. Bytes.
pub(crate) const SHORTEST: usize = 32;
/// Longer texts are none: a session's name, a kind's and two numbers.
const LONGEST: usize = 600;
/// A token cannot be taken back, so it is not to be good for ever, whoever signs it.
pub(crate) const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// How far ahead the clock of whoever signs may be.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// With its principal.
    pub session: SessionId,
    /// The kind that the session has to be of; `None`: any that the principal may use.
    pub worker: Option<String>,
    /// Milliseconds since 1970. From that moment on it is none.
    pub expires: u64,
    /// Of the data plane that it is for.
    pub port: u16,
}

/// Why a token is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// Not signed by any of the secrets, or no token at all.
    Forged,
    Expired,
    /// Good for longer than any may be.
    TooLong,
    /// For the data plane of another port.
    OtherPort,
    /// Its principal is not in herd.yaml.
    Revoked,
}

/// Signs with one secret and accepts those of all.
pub(crate) struct Signer {
    first: Hmac<Sha256>,
    others: Vec<Hmac<Sha256>>,
}

impl Signer {
    /// A secret that nobody knows, and that ends with herd.
    pub(super) fn random() -> Result<Self, SecretError> {
        let mut secret = [0; SHORTEST];
        getrandom::fill(&mut secret).map_err(SecretError::NoRandomness)?;
        Ok(Self::new(&secret, &[]))
    }

    /// `secrets` are not empty.
    pub(super) fn read(secrets: &[TokenSecret]) -> Result<Self, Vec<BadSecret>> {
        let (mut read, mut wrong) = (Vec::new(), Vec::new());
        for (index, secret) in secrets.iter().enumerate() {
            let (word, text) = match secret {
                TokenSecret::Env(variable) => ("env", keys::from_env(variable)),
                TokenSecret::File(path) => ("file", keys::from_file(path)),
            };
            match text.map(|text| text.trim().to_owned()) {
                Ok(text) if text.len() >= SHORTEST => read.push(text.into_bytes()),
                outcome => {
                    let why = outcome.err().unwrap_or(SecretError::ShortSecret);
                    let [auth, tokens, secrets] = ["auth", "tokens", "secrets"].map(Step::from);
                    let at = vec![auth, tokens, secrets, Step::Index(index), word.into()];
                    wrong.push(BadSecret { at, why });
                }
            }
        }
        match read.split_first() {
            Some((first, others)) if wrong.is_empty() => Ok(Self::new(first, others)),
            _ => Err(wrong),
        }
    }

    pub(super) fn new(first: &[u8], others: &[Vec<u8>]) -> Self {
        Self {
            first: keyed(first),
            others: others.iter().map(|secret| keyed(secret)).collect(),
        }
    }

    pub(super) fn sign(&self, claims: &Claims) -> String {
        let mut text = PREFIX.to_owned();
        BASE64URL_NOPAD.encode_append(claims.to_string().as_bytes(), &mut text);
        let signature = self.first.clone().chain_update(&text).finalize().into_bytes();
        text.push('.');
        BASE64URL_NOPAD.encode_append(&signature, &mut text);
        text
    }

    /// `now` is in milliseconds since 1970.
    pub(super) fn verify(&self, text: &str, port: u16, now: u64) -> Result<Claims, Rejection> {
        let claims = self.signed(text).ok_or(Rejection::Forged)?;
        if claims.expires <= now {
            return Err(Rejection::Expired);
        }
        if u128::from(claims.expires - now) > (LONGEST_LIFE + CLOCKS_DIFFER).as_millis() {
            return Err(Rejection::TooLong);
        }
        if claims.port != port {
            return Err(Rejection::OtherPort);
        }
        Ok(claims)
    }

    /// What it says, if one of the secrets signed it.
    fn signed(&self, text: &str) -> Option<Claims> {
        if text.len() > LONGEST {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let claims = signed.strip_prefix(PREFIX)?;
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).ok()?;
        let by = |secret: &Hmac<Sha256>| {
            secret
                .clone()
                .chain_update(signed)
                .verify_slice(&signature)
                .is_ok()
        };
        if !by(&self.first) && !self.others.iter().any(by) {
            return None;
        }
        let claims = BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?;
        Claims::read(std::str::from_utf8(&claims).ok()?)
    }
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104, 3)")]
fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("a key of any length")
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} secrets)", 1 + self.others.len())
    }
}

impl Claims {
    fn read(text: &str) -> Option<Self> {
        let mut fields = text.split(' ');
        let (session, worker, expires, port) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        if fields.next().is_some() {
            return None;
        }
        let session = SessionId::parse(session.as_bytes()).ok()?;
        session.principal()?;
        Some(Self {
            session,
            worker: (worker != "*").then(|| worker.to_owned()),
            expires: expires.parse().ok()?,
            port: port.parse().ok()?,
        })
    }
}

impl fmt::Display for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worker = self.worker.as_deref().unwrap_or("*");
        write!(f, "{} {worker} {} {}", self.session, self.expires, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_764_300_000_000;

    fn claims() -> Claims {
        Claims {
            session: SessionId::parse(b"alice/user-42").unwrap(),
            worker: Some("browser".to_owned()),
            expires: NOW + 1,
            port: 8080,
        }
    }

    fn signer(secret: u8) -> Signer {
        Signer::new(&[secret; 32], &[])
    }

    #[test]
    fn a_token_says_what_was_signed() {
        let signer = signer(1);
        for worker in [None, Some("browser".to_owned())] {
            let claims = Claims { worker, ..claims() };
            let token = signer.sign(&claims);
            assert_eq!(signer.verify(&token, 8080, NOW), Ok(claims));
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            assert!(
                token.bytes().all(plain),
                "fits a header, a query and a cookie: {token}"
            );
        }
    }

    #[test]
    fn a_token_of_another_implementation_of_the_documented_format_is_accepted() {
        // printf %s "$signed" | openssl dgst -sha256 -hmac "$secret" -binary | basenc --base64url
        let signer = Signer::new(b"0123456789abcdef0123456789abcdef", &[]);
        let token = concat!(
            "herd1.YWxpY2UvdXNlci00MiAqIDE3NjQzMDAwMDAwMDEgODA4MA",
            ".jnqYl6PUBR28et7v0LBLhVUmuzHMoSQgho5Wfd77kGE"
        );
        let expected = Claims {
            worker: None,
            ..claims()
        };
        assert_eq!(signer.sign(&expected), token);
        assert_eq!(signer.verify(token, 8080, NOW), Ok(expected));
    }

    #[test]
    fn a_token_is_good_until_its_last_millisecond_and_for_its_port_only() {
        let (signer, token) = (signer(1), signer(1).sign(&claims()));
        assert!(signer.verify(&token, 8080, NOW).is_ok());
        assert_eq!(signer.verify(&token, 8080, NOW + 1), Err(Rejection::Expired));
        assert_eq!(signer.verify(&token, 8081, NOW), Err(Rejection::OtherPort));
    }

    #[test]
    fn a_token_that_is_good_for_more_than_a_day_is_none_yet() {
        let day_and_minute = 24 * 60 * 60 * 1000 + 60_000;
        let judged = |expires| {
            let claims = Claims { expires, ..claims() };
            signer(1).verify(&signer(1).sign(&claims), 8080, NOW).map(|_| ())
        };
        assert_eq!(judged(NOW + day_and_minute), Ok(()));
        for expires in [NOW + day_and_minute + 1, u64::MAX] {
            assert_eq!(judged(expires), Err(Rejection::TooLong));
        }
    }

    #[test]
    fn a_token_with_any_byte_changed_is_none() {
        let signer = signer(1);
        let token = signer.sign(&claims());
        for at in 0..token.len() {
            for byte in (0x21..0x7f).filter(|byte| *byte != token.as_bytes()[at]) {
                let mut changed = token.clone().into_bytes();
                changed[at] = byte;
                let changed = String::from_utf8(changed).unwrap();
                assert_eq!(
                    signer.verify(&changed, 8080, NOW),
                    Err(Rejection::Forged),
                    "{changed}"
                );
            }
        }
        for cut in 0..token.len() {
            assert_eq!(signer.verify(&token[..cut], 8080, NOW), Err(Rejection::Forged));
        }
        let longer = format!("{token}{}", "A".repeat(LONGEST));
        for changed in [
            format!("{token}="),
            format!("{token}A"),
            format!(" {token}"),
            longer,
        ] {
            assert_eq!(
                signer.verify(&changed, 8080, NOW),
                Err(Rejection::Forged),
                "{changed}"
            );
        }
    }

    #[test]
    fn secrets_are_rotated_by_putting_the_new_one_first() {
        let (old, new) = (signer(1), signer(2));
        let both = Signer::new(&[2; 32], &[vec![1; 32]]);
        let of_old = old.sign(&claims());
        assert!(
            both.verify(&of_old, 8080, NOW).is_ok(),
            "tokens that are out stay good"
        );
        assert_eq!(both.sign(&claims()), new.sign(&claims()), "the first signs");
        assert_eq!(new.verify(&of_old, 8080, NOW), Err(Rejection::Forged));
    }

    #[test]
    fn signed_claims_that_say_nothing_are_no_token() {
        let signer = signer(1);
        for text in [
            "",
            "alice/a * 1 2 3",
            "alice/a * 1",
            "a * 9999999999999 8080",
            "alice/a * x 8080",
            "alice/a * 9999999999999 65536",
        ] {
            let mut token = format!("{PREFIX}{}", BASE64URL_NOPAD.encode(text.as_bytes()));
            let signature = signer.first.clone().chain_update(&token).finalize().into_bytes();
            token = format!("{token}.{}", BASE64URL_NOPAD.encode(&signature));
            assert_eq!(signer.verify(&token, 8080, NOW), Err(Rejection::Forged), "{text}");
        }
    }

    #[test]
    fn a_secret_that_is_too_short_stops_the_start_and_none_is_shown() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "0123456789abcdef0123456789abcde\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let wrong = Signer::read(&[TokenSecret::File(path)]).unwrap_err();
        assert_eq!(wrong.len(), 1);
        assert!(matches!(wrong[0].why, SecretError::ShortSecret), "{wrong:?}");
        assert_eq!(format!("{:?}", signer(7)), "Signer(1 secrets)");
    }
}
