//! A key that is `off`, one word, or settings: `sandbox`, `liveness`.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

/// As it is written. Boxed, because most kinds have none of a key's many settings.
#[derive(Debug, Clone)]
pub(super) enum Switch<S> {
    Off,
    On(Box<S>),
}

/// Settings for which a word can stand.
pub(super) trait Switched: Sized {
    /// What may be written, `off` included.
    const EXPECTING: &'static str;
    /// What to write where `true` stands, which YAML makes of `on` and `yes`, too.
    const INSTEAD_OF_TRUE: &'static str;

    /// What another word than `off` stands for.
    fn from_word<E: de::Error>(word: &str) -> Result<Self, E>;

    /// Of such a word.
    fn word_schema() -> Schema;
}

/// What is wrong with settings, by its key; no key: as a whole.
pub(super) type Wrong = (Option<&'static str>, String);

struct SwitchVisitor<S>(PhantomData<S>);

impl<'de, S: Switched + Deserialize<'de>> Visitor<'de> for SwitchVisitor<S> {
    type Value = Switch<S>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(S::EXPECTING)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Switch<S>, E> {
        match text {
            "off" => Ok(Switch::Off),
            word => S::from_word(word).map(|settings| Switch::On(Box::new(settings))),
        }
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Switch<S>, E> {
        let instead = if value { S::INSTEAD_OF_TRUE } else { "off" };
        Err(E::custom(format!("is the truth value {value}; write {instead}")))
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Switch<S>, M::Error> {
        let settings = S::deserialize(de::value::MapAccessDeserializer::new(map));
        settings.map(|settings| Switch::On(Box::new(settings)))
    }
}

impl<'de, S: Switched + Deserialize<'de>> Deserialize<'de> for Switch<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SwitchVisitor(PhantomData))
    }
}

impl<S: Switched + JsonSchema> JsonSchema for Switch<S> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}Switch", S::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let settings = generator.subschema_for::<S>();
        json_schema!({ "anyOf": [{ "const": "off" }, S::word_schema(), settings] })
    }
}
