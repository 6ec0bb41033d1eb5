//! What `auth` says that only a look at files and variables can tell, every mistake in one run.

use super::keys::{self, BadSecret, Digest256, SecretError};
use super::token::Signer;
use super::{Lasting, same};
use crate::config::{Config, Step};

/// Keys and secrets of one configuration.
#[derive(Debug)]
pub struct Secrets {
    /// Of each principal's keys, in the order of the file.
    pub(super) digests: Vec<Vec<Digest256>>,
    pub(super) signer: Signer,
    pub(super) lasting: Lasting,
}

impl Secrets {
    /// Reads them from where they are. `None`: the configuration has no `auth`.
    pub fn read(config: &Config) -> Result<Option<Self>, Vec<BadSecret>> {
        let Some(auth) = &config.auth else {
            return Ok(None);
        };
        let mut wrong = Vec::new();
        let mut digests: Vec<Vec<Digest256>> = Vec::new();
        for key in &auth.keys {
            let at = ["auth", "keys", &key.name].map(Step::from);
            let mut own = Vec::new();
            for (at, digest) in keys::read_all(&at, &key.sources, &mut wrong) {
                let owner = digests
                    .iter()
                    .zip(&auth.keys)
                    .find(|(others, _)| others.iter().any(|other| same(other, &digest)));
                if let Some((_, owner)) = owner {
                    let why = SecretError::Shared {
                        other: owner.name.clone(),
                    };
                    wrong.push(BadSecret { at, why });
                }
                own.push(digest);
            }
            digests.push(own);
        }
        let (signer, lasting) = match auth.tokens.secrets.as_slice() {
            [] => (
                Signer::random().map_err(|why| vec![BadSecret::of_tokens(why)]),
                Lasting::UntilHerdEnds,
            ),
            secrets => (Signer::read(secrets), Lasting::Configured),
        };
        match signer {
            Ok(signer) if wrong.is_empty() => Ok(Some(Self {
                digests,
                signer,
                lasting,
            })),
            Ok(_) => Err(wrong),
            Err(more) => {
                wrong.extend(more);
                Err(wrong)
            }
        }
    }
}
