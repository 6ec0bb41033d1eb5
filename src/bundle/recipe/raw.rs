//! bundle.yaml as it is written.

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A value that is text however it looks: `0755`, `8080` and `1.10` need no quotes.
#[derive(Debug)]
pub(super) struct Text(pub(super) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = Text;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Written)
    }
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) description: Option<Text>,
    #[serde(default)]
    pub(super) base: Option<Base>,
    #[serde(default)]
    pub(super) programs: Vec<Text>,
    #[serde(default)]
    pub(super) packages: Vec<Text>,
    #[serde(default)]
    pub(super) with: Vec<Text>,
    #[serde(default)]
    pub(super) files: Vec<Copied>,
    #[serde(default)]
    pub(super) links: Vec<Links>,
    #[serde(default)]
    pub(super) without: Vec<Text>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, Text>,
    #[serde(default)]
    pub(super) entry: Vec<Text>,
    #[serde(default)]
    pub(super) cwd: Option<Text>,
    #[serde(default)]
    pub(super) user: Option<Text>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, Text>,
    #[serde(default)]
    pub(super) permits: Option<Permits>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Base {
    pub(super) bundle: Text,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Copied {
    pub(super) source: Text,
    pub(super) target: Text,
    #[serde(default)]
    pub(super) mode: Option<Text>,
}

/// Links at several paths that lead to the same one.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Links {
    pub(super) to: Text,
    pub(super) at: Vec<Text>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Permits {
    #[serde(default)]
    pub(super) profile: Option<Profile>,
    #[serde(default)]
    pub(super) network: Option<NetworkAccess>,
}

#[derive(Debug, Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Profile {
    Strict,
    Browser,
}

#[derive(Debug, Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum NetworkAccess {
    None,
    Host,
}

impl Profile {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Browser => "browser",
        }
    }
}

impl NetworkAccess {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Host => "host",
        }
    }
}
