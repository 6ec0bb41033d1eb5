//! The JSON Schema of herd.yaml, generated from the raw types so that it cannot drift from them.

use serde_json::Value;

use super::raw;

/// Describes a type where it is used, as what a value of it is written as.
macro_rules! inline_schema {
    ($type:ident, $schema:expr) => {
        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                std::borrow::Cow::Borrowed(stringify!($type))
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $schema
            }
        }
    };
}

pub(super) use inline_schema;

/// JSON Schema (2020-12), pretty-printed, as checked in at `docs/herd.schema.json`.
pub fn schema() -> String {
    let mut schema = schemars::schema_for!(raw::File).to_value();
    refuse_null(&mut schema);
    format!("{schema:#}\n")
}

/// Every raw key is an `Option`, which schemars shows as "or null"; but a key without a value is a
/// mistake in herd.yaml.
fn refuse_null(schema: &mut Value) {
    let is_null = |value: &Value| value.is_null() || *value == "null";
    match schema {
        Value::Object(object) => {
            if let Some(Value::Array(words)) = object.get_mut("enum") {
                words.retain(|word| !is_null(word));
            }
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| !is_null(name));
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(alternatives)) = object.get_mut("anyOf") {
                alternatives.retain(|alternative| alternative.get("type").is_none_or(|name| name != "null"));
                if let [Value::Object(only)] = alternatives.as_slice() {
                    let only = only.clone();
                    object.shift_remove("anyOf");
                    object.extend(only);
                }
            }
            object.values_mut().for_each(refuse_null);
        }
        Value::Array(items) => items.iter_mut().for_each(refuse_null),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;
    use crate::core::{NAME_PATTERN, is_name};

    fn docs(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
    }

    #[test]
    fn the_checked_in_schema_is_the_generated_one() {
        let path = docs("herd.schema.json");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, schema()).expect("docs/ is writable");
        }
        let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            !schema().contains("null"),
            "a key without a value is refused, so null is no type"
        );
        assert!(
            checked_in == schema(),
            "docs/herd.schema.json differs from the types in src/config/raw.rs; \
             run `UPDATE=1 cargo test schema` and commit the file"
        );
    }

    /// Every key of the schema as the documentation writes it: `network.data_bind`,
    /// `workers.<name>.queue.max`, `workers.<name>.routes[].host`.
    fn keys_of(root: &Value, schema: &Value, prefix: &str, keys: &mut BTreeSet<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.rsplit('/').next().expect("a reference has a name");
            return keys_of(root, &root["$defs"][name], prefix, keys);
        }
        for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
            let path = if prefix.is_empty() {
                key.clone()
            } else {
                format!("{prefix}.{key}")
            };
            // `defaults` takes the worker keys; the documentation says so once instead of twice.
            if path != "defaults" {
                keys_of(root, inner, &path, keys);
            }
            keys.insert(path);
        }
        for alternative in schema["anyOf"].as_array().into_iter().flatten() {
            keys_of(root, alternative, prefix, keys);
        }
        if schema["items"].is_object() {
            keys_of(root, &schema["items"], &format!("{prefix}[]"), keys);
        }
        if schema["additionalProperties"].is_object()
            && ["workers", "control.keys", "auth.keys", "traces.headers"].contains(&prefix)
        {
            let named = format!("{prefix}.<name>");
            keys_of(root, &schema["additionalProperties"], &named, keys);
        }
    }

    #[test]
    fn herd_and_its_schema_agree_on_names() {
        fn patterns<'s>(schema: &'s Value, found: &mut Vec<&'s str>) {
            found.extend(schema["propertyNames"]["pattern"].as_str());
            match schema {
                Value::Object(object) => object.values().for_each(|inner| patterns(inner, found)),
                Value::Array(items) => items.iter().for_each(|inner| patterns(inner, found)),
                _ => {}
            }
        }
        let schema: Value = serde_json::from_str(&schema()).expect("the schema is JSON");
        let mut found = Vec::new();
        patterns(&schema, &mut found);
        found.retain(|pattern| *pattern == NAME_PATTERN);
        assert_eq!(found.len(), 3, "workers, auth.keys, control.keys");

        // The pattern's own edges: `^[a-z0-9][a-z0-9_-]{0,62}$`.
        let longest = "a".repeat(63);
        let too_long = "a".repeat(64);
        for (name, fits) in [
            ("a", true),
            ("0_-", true),
            (&*longest, true),
            (&*too_long, false),
            ("", false),
            ("_x", false),
            ("-x", false),
            ("A", false),
            ("a.b", false),
            ("\u{e4}", false),
        ] {
            assert_eq!(is_name(name), fits, "{name}");
            let workers = |name: &str| format!("workers: {{\"{name}\": {{cmd: [a, \"{{{{.Port}}}}\"]}}}}\n");
            let key = |of: &str| {
                let digest = "0".repeat(64);
                format!(
                    "{of}keys: {{\"{name}\": {{sha256: \"{digest}\"}}}}}}\n{}",
                    workers("w")
                )
            };
            for text in [
                workers(name),
                key("auth: {"),
                key("control: {tcp: \"127.0.0.1:9190\", "),
            ] {
                let judged = crate::config::parse(&text, "herd.yaml");
                assert_eq!(judged.is_ok(), fits, "{text}\n{judged:?}");
            }
        }
    }

    #[test]
    fn the_documentation_has_a_row_for_every_key_and_for_no_other() {
        let schema: Value = serde_json::from_str(&schema()).expect("the schema is JSON");
        let mut keys = BTreeSet::new();
        keys_of(&schema, &schema, "", &mut keys);
        assert!(
            keys.len() > 40 && keys.contains("workers.<name>.routes[].host"),
            "saw too few: {keys:?}"
        );

        let text = std::fs::read_to_string(docs("configuration.md")).expect("docs/configuration.md exists");
        let row = |line: &str| {
            line.strip_prefix("| `")?
                .split_once('`')
                .map(|(key, _)| key.to_owned())
        };
        let known = |key: &String| !key.starts_with("HERD_") && !key.starts_with("{{");
        let rows: Vec<String> = text.lines().filter_map(row).filter(known).collect();
        let documented: BTreeSet<String> = rows.iter().cloned().collect();
        assert_eq!(rows.len(), documented.len(), "a key is documented twice");
        let missing: Vec<_> = keys.difference(&documented).collect();
        let unknown: Vec<_> = documented.difference(&keys).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "docs/configuration.md lacks {missing:?} and has rows for unknown {unknown:?}"
        );
    }
}
