//! `auth`: who may use the data plane.

use std::collections::HashSet;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::model::{self, DataKey, KeySource, Kind, Rate, Session, TokenSecret};
use super::raw::{OtherKey, named_keys};
use super::template::{Template, Variable};
use super::text::{CookieName, Digest, FromText, InOrder, QueryName, from_text, is_env_name};
use super::units::Count;
use super::validate::Judge;
use super::yaml::Step;
use crate::core::{Allowance, KindId, is_name};

/// Most per time that a rate may allow, and most at once.
const MOST: usize = 1_000_000;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "keys and values, e.g. {keys: {alice: {env: ALICE_KEY}}}"
)]
pub(super) struct Auth {
    /// Who may use the data plane, by name. Whoever sends one of these keys is a principal, whose session ids are its own.
    /// Required.
    #[schemars(schema_with = "keys_schema")]
    pub(super) keys: Option<InOrder<Key>>,
    /// Signed tokens for web pages, each for one session (`herd token`).
    pub(super) tokens: Option<Tokens>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "keys and values, e.g. {env: ALICE_KEY, sessions: 5}"
)]
#[schemars(rename = "DataKey")]
pub(super) struct Key {
    /// The key's SHA-256, as `herd key` prints it.
    sha256: Option<Digest>,
    /// Or a variable of herd's own environment that holds the key.
    env: Option<String>,
    /// Or a file that holds the key.
    file: Option<String>,
    /// Further keys that count as this one, each sha256, env or file: the old one while a new one takes its place.
    also: Option<Vec<OtherKey>>,
    /// The kinds of workers it may use. Default: all.
    workers: Option<Vec<String>>,
    /// Most sessions at a time, waiting, starting and bound ones together. Default: no limit.
    sessions: Option<Count>,
    /// Most new sessions, per second, minute or hour: `30/m`. One counts when it is made, whatever becomes of it. Default:
    /// no limit.
    session_rate: Option<RateText>,
    /// How many new sessions may come at once. Default: as many as their rate allows in a second, at least 1.
    session_burst: Option<Count>,
    /// Most requests, per second, minute or hour: `100/s`. Default: no limit.
    rate: Option<RateText>,
    /// How many requests may come at once. Default: as many as the rate allows in a second, at least 1.
    burst: Option<Count>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "keys and values, e.g. {secrets: [{file: /etc/herd/token.secret}]}"
)]
pub(super) struct Tokens {
    /// What signs them, each at least 32 bytes: all are accepted, the first signs. Default: a random one, so that tokens
    /// end with herd.
    secrets: Option<Vec<Secret>>,
    /// Cookie that may carry one; taken out before the request reaches the worker. Default: herd_token.
    cookie: Option<CookieName>,
    /// Query parameter that may carry one; taken out likewise. Default: herd_token.
    query: Option<QueryName>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "env or file, e.g. {env: TOKEN_SECRET}")]
pub(super) struct Secret {
    /// A variable of herd's own environment that holds it.
    env: Option<String>,
    /// Or a file.
    file: Option<String>,
}

/// `100/s`, `600/m`, `1000/h`.
#[derive(Debug, Clone, Copy)]
pub(super) struct RateText {
    number: u32,
    per: Duration,
}

from_text!(RateText);

impl FromText for RateText {
    const EXPECTING: &'static str = "a rate such as 100/s";

    fn from_text(text: &str) -> Result<Self, String> {
        let read = || {
            let (digits, unit) = text.split_once('/')?;
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            let number: u32 = plain.then(|| digits.parse().ok()).flatten()?;
            let seconds = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => return None,
            };
            (1..=MOST as u32).contains(&number).then(|| Self {
                number,
                per: Duration::from_secs(seconds),
            })
        };
        read().ok_or_else(|| {
            format!(
                "\"{}\" is not a rate; write 1 to {MOST} per s, m or h, e.g. 100/s",
                text.escape_debug()
            )
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]{1,7}/(s|m|h)$" })
    }
}

fn keys_schema(generator: &mut SchemaGenerator) -> Schema {
    named_keys(generator.subschema_for::<Key>())
}

impl Judge<'_> {
    /// `None`: something is wrong with it, which is reported.
    pub(super) fn auth(&mut self, auth: Auth, session: &Session, kinds: &[Kind]) -> Option<model::Auth> {
        let tokens = self.tokens(auth.tokens.unwrap_or_default(), session);
        let keys = auth.keys.map_or_else(Vec::new, |keys| keys.0);
        if keys.is_empty() {
            if !self.problems.mentions("auth.keys") && !self.problems.mentions("auth") {
                self.at_key(
                    &["auth"],
                    "has no keys, so nobody could use the data plane; `herd key` makes one, and without auth everyone may",
                );
            }
            return None;
        }
        let mut known = Vec::new();
        let mut digests = HashSet::new();
        for (name, key) in keys {
            let path = ["auth", "keys", &name];
            if !is_name(&name) {
                self.at_key(
                    &path,
                    "is not a name; write 1 to 63 of a-z 0-9 _ -, a letter or digit first",
                );
            }
            let workers = self.key_workers(&path, key.workers, kinds);
            let session_rate = self.rate(
                &path,
                ["session_rate", "session_burst"],
                key.session_rate,
                key.session_burst,
            );
            let rate = self.rate(&path, ["rate", "burst"], key.rate, key.burst);
            let sessions = key.sessions.map(|count| count.0);
            if sessions == Some(0) {
                let path = [&path[..], &["sessions"]].concat();
                self.at_value(&path, "is 0, so the key opens nothing; write at least 1");
            }
            let first = OtherKey {
                sha256: key.sha256,
                env: key.env,
                file: key.file,
            };
            let Some(sources) = self.key_sources(&path, first, key.also) else {
                continue;
            };
            for (index, source) in sources.iter().enumerate() {
                if let KeySource::Sha256(digest) = source
                    && !digests.insert(*digest)
                {
                    let mut at = super::validate::key_steps(&path, index);
                    at.push(Step::from("sha256"));
                    self.at_step(&at, "is there twice; each principal has keys of its own");
                }
            }
            known.push(DataKey {
                name,
                sources,
                workers,
                allowance: Allowance {
                    sessions,
                    session_rate,
                },
                rate,
            });
        }
        Some(model::Auth { keys: known, tokens })
    }

    fn key_workers(
        &mut self,
        path: &[&str],
        names: Option<Vec<String>>,
        kinds: &[Kind],
    ) -> Option<Vec<KindId>> {
        let names = names?;
        let path = [path, &["workers"]].concat();
        if names.is_empty() && !self.problems.mentions_inside(&path.join(".")) {
            self.at_value(
                &path,
                "is empty, so the key opens nothing; name kinds, or remove it for all",
            );
        }
        let mut allowed = Vec::new();
        // As the file has them: a kind with a mistake of its own is not among `kinds`.
        let there = self.tree.keys_in("workers");
        for (index, name) in names.iter().enumerate() {
            match kinds.iter().position(|kind| kind.name == *name) {
                Some(kind) => allowed.push(KindId(kind)),
                None if there.contains(&name.as_str())
                    || there.is_empty()
                    || self.problems.mentions(&format!("workers.{name}")) => {}
                None => {
                    let mut steps = super::validate::steps(&path);
                    steps.push(Step::Index(index));
                    let found = self.tree.locate(&steps);
                    let message = format!(
                        "there is no kind \"{}\" under workers; there is {}",
                        name.escape_debug(),
                        there.join(", ")
                    );
                    self.problems.add(found.value_at, found.name, message);
                }
            }
        }
        Some(allowed)
    }

    fn rate(
        &mut self,
        path: &[&str],
        [rate_key, burst_key]: [&str; 2],
        rate: Option<RateText>,
        burst: Option<Count>,
    ) -> Option<Rate> {
        let burst_path = [path, &[burst_key]].concat();
        let Some(rate) = rate else {
            if burst.is_some() && !self.problems.mentions(&[path, &[rate_key]].concat().join(".")) {
                let message = format!("is of no use without {rate_key}; write e.g. {rate_key}: 100/s");
                self.at_key(&burst_path, &message);
            }
            return None;
        };
        let per_second = u64::from(rate.number) / rate.per.as_secs();
        let burst = match burst {
            Some(Count(burst)) => {
                if !(1..=MOST).contains(&burst) {
                    self.at_value(&burst_path, "is out of range; write 1 to 1000000, e.g. 200");
                }
                burst.clamp(1, MOST) as u32
            }
            None => per_second.clamp(1, MOST as u64) as u32,
        };
        Some(Rate {
            number: rate.number,
            per: rate.per,
            burst,
        })
    }

    fn tokens(&mut self, raw: Tokens, session: &Session) -> model::Tokens {
        let cookie = raw.cookie.map_or_else(|| "herd_token".to_owned(), |name| name.0);
        let query = raw.query.map_or_else(|| "herd_token".to_owned(), |name| name.0);
        let session_ids = "carries session ids already; give tokens another name";
        if session.cookie.as_ref() == Some(&cookie) {
            self.at_value(&["auth", "tokens", "cookie"], session_ids);
        }
        if session.query.as_ref() == Some(&query) {
            self.at_value(&["auth", "tokens", "query"], session_ids);
        }
        let mut secrets = Vec::new();
        for (index, secret) in raw.secrets.into_iter().flatten().enumerate() {
            let message = match (secret.env, secret.file) {
                (Some(name), None) if is_env_name(&name) => {
                    secrets.push(TokenSecret::Env(name));
                    continue;
                }
                (None, Some(file)) => {
                    secrets.push(TokenSecret::File(file.into()));
                    continue;
                }
                (Some(_), None) => "names no variable; write e.g. {env: TOKEN_SECRET}",
                _ => "has to have exactly one of env and file",
            };
            let mut path = super::validate::steps(&["auth", "tokens", "secrets"]);
            path.push(Step::Index(index));
            let found = self.tree.locate(&path);
            if !self.problems.mentions(&found.name) && !self.problems.mentions_inside(&found.name) {
                self.problems.add(found.value_at, found.name, message);
            }
        }
        model::Tokens {
            secrets,
            cookie,
            query,
        }
    }

    /// What a worker is told of its session has to tell the sessions of principals apart.
    pub(super) fn principals(&mut self, auth: Option<&model::Auth>, kinds: &[Kind]) {
        for (index, kind) in kinds.iter().enumerate() {
            let session = place(kind, Variable::SessionId);
            let principal = place(kind, Variable::Principal);
            let may = |key: &&DataKey| {
                let kinds = key.workers.as_ref();
                kinds.is_none_or(|kinds| kinds.contains(&KindId(index)))
            };
            let keys = auth.map_or(0, |auth| auth.keys.iter().filter(may).count());
            match (session, principal) {
                (_, Some(place)) if auth.is_none() && self.problems.is_empty() => self.at_setting(
                    &kind.name,
                    &[place],
                    "{{.Principal}} is named here, but without auth there are no principals; remove it, or add auth",
                ),
                (Some(_), _) if keys > 1 => {
                    let unclear = |template: &Template| {
                        template.names(Variable::SessionId) && !template.tells_sessions_apart()
                    };
                    if let Some(place) =
                        super::validate::found_in(unclear, &kind.cmd, &kind.env, kind.cwd.as_ref())
                    {
                        self.at_setting(
                            &kind.name,
                            &[place],
                            "{{.SessionID}} is named here without {{.Principal}} and a separator: sessions of two keys may have \
                             the same id, and would share what it names; write e.g. /data/{{.Principal}}/{{.SessionID}}, with a \
                             / or : between the two",
                        );
                    }
                }
                _ => {}
            }
        }
    }
}

/// Which of `cmd`, `env` and `cwd` names the variable first.
fn place(kind: &Kind, variable: Variable) -> Option<&'static str> {
    super::validate::named_in(variable, &kind.cmd, &kind.env, kind.cwd.as_ref())
}
