//! serde over the tree of [`super::tree`], with mistakes kept as data until they are worded.

use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{self, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor};

use super::tree::{Node, Value};

/// What is wrong with one value or key. Where is told by the path that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mistake {
    UnknownKey {
        key: String,
        known: &'static [&'static str],
    },
    WrongType {
        found: String,
        expected: String,
    },
    UnknownWord {
        found: String,
        known: &'static [&'static str],
    },
    Said(String),
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey { key, known } => match closest(key, known) {
                Some(close) => write!(f, "is not a key herd knows; did you mean `{close}`?"),
                None if known.is_empty() => f.write_str("is not a key herd knows; remove it"),
                None => write!(f, "is not a key herd knows; write one of {}", known.join(", ")),
            },
            Self::WrongType { found, expected } => write!(f, "is {found}; write {expected}"),
            Self::UnknownWord { found, known } => {
                write!(f, "is \"{}\"; write {}", found.escape_debug(), known.join(" or "))
            }
            Self::Said(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Mistake {}

impl de::Error for Mistake {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Said(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::WrongType {
            found: describe(found),
            expected: plain(expected),
        }
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::UnknownKey {
            key: key.to_owned(),
            known,
        }
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        Self::UnknownWord {
            found: found.to_owned(),
            known,
        }
    }
}

fn describe(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Unit | Unexpected::Option => "empty".to_owned(),
        Unexpected::Bool(value) => format!("{value}"),
        Unexpected::Signed(value) => format!("the number {value}"),
        Unexpected::Unsigned(value) => format!("the number {value}"),
        Unexpected::Str(text) => format!("the text \"{}\"", shorten(text).escape_debug()),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a map of keys and values".to_owned(),
        Unexpected::Other(what) => what.to_owned(),
        other => other.to_string(),
    }
}

/// serde's own names for types, in the words of the documentation.
fn plain(expected: &dyn Expected) -> String {
    match expected.to_string().as_str() {
        "a boolean" => "true or false".to_owned(),
        "a string" => "text".to_owned(),
        "a sequence" => "a list such as [\"a\", \"b\"]".to_owned(),
        "a map" => "keys and values".to_owned(),
        other => other.to_owned(),
    }
}

fn shorten(text: &str) -> &str {
    match text.char_indices().nth(60) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// The known key that a typing mistake away from `key`, if one is close enough to be meant.
fn closest(key: &str, known: &'static [&'static str]) -> Option<&'static str> {
    let normal = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    let key = normal(key);
    let limit = 1 + key.chars().count() / 4;
    known
        .iter()
        .map(|candidate| (distance(&key, candidate), *candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, remove, replace, swap neighbours) from one to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool { value, .. } => visitor.visit_bool(*value),
            Value::Int { value, .. } => visitor.visit_i64(*value),
            Value::Float { text } => {
                let found = format!("the number {text}");
                let wrong: Mistake = de::Error::invalid_type(Unexpected::Other(&found), &visitor);
                match text.parse() {
                    // What takes no fractions is to say so of the number as it is written.
                    Ok(number) => visitor.visit_f64(number).map_err(|e| match e {
                        Mistake::Said(_) => e,
                        _ => wrong,
                    }),
                    Err(_) => Err(wrong),
                }
            }
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => {
                visitor.visit_seq(SeqDeserializer::new(items.iter().map(|item| &item.node)))
            }
            Value::Map(entries) => {
                let entries = entries.iter().map(|entry| (entry.key.as_str(), &entry.node));
                visitor.visit_map(MapDeserializer::new(entries))
            }
        }
    }

    /// The scalar as it was written, whatever it would resolve to: for values that are text by nature
    /// (arguments, variables), where `8080`, `true` and `1.10` need no quotes.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match (&self.value, self.scalar_text()) {
            (Value::Null, _) | (_, None) => self.deserialize_any(visitor),
            (_, Some(text)) => visitor.visit_borrowed_str(text),
        }
    }

    /// A key without a value is a mistake, never "as if it were not there".
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        visitor.visit_newtype_struct(self)
    }

    /// serde would also fill a struct from a list, in the order of its fields.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        match self.value {
            Value::List(_) => Err(de::Error::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        match &self.value {
            Value::Text(text) => {
                let word: StrDeserializer<'_, Mistake> = text.as_str().into_deserializer();
                visitor.visit_enum(word)
            }
            _ => {
                // Not through `expected`: it would say "enum Bind" instead of the words.
                let found = match &self.value {
                    Value::Null => "empty".to_owned(),
                    Value::List(_) => "a list".to_owned(),
                    Value::Map(_) => "a map of keys and values".to_owned(),
                    _ => self.scalar_text().unwrap_or_default().to_owned(),
                };
                Err(Mistake::WrongType {
                    found,
                    expected: words.join(" or "),
                })
            }
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Mistake> for &'de Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
