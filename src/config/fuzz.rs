//! herd.yaml from any bytes: the subject of `crate::fuzzing` in this module.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a fuzzer is told"
)]

use std::collections::BTreeSet;

use super::load::parse_bytes;
use super::template::{Template, TemplateError, Values, Variable};
use crate::yaml;

pub fn config(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match parse_bytes(input, "herd.yaml") {
        Ok(config) => {
            let names: BTreeSet<_> = config.kinds.iter().map(|kind| &kind.name).collect();
            assert!(!names.is_empty() && names.len() == config.kinds.len());
            for kind in &config.kinds {
                assert!(kind.min <= kind.max && kind.max > 0, "{kind:?}");
                assert!(!kind.cmd.is_empty(), "{kind:?}");
            }
        }
        Err(problems) => {
            let utf8 = std::str::from_utf8(input).is_ok();
            let seen = text.strip_prefix('\u{feff}').filter(|_| utf8).unwrap_or(&text);
            yaml::fuzz::stand_in(&problems, seen);
        }
    }
    template(&text);
}

fn template(text: &str) {
    match Template::parse(text) {
        Ok(template) => {
            let values = Values {
                port: Some(1),
                socket: Some("{{.Port}}".to_owned()),
                session_id: Some("{{".to_owned()),
                principal: Some("p".to_owned()),
                worker: String::new(),
                dir: "}}".to_owned(),
            };
            // The text with each name replaced, from left to right; what a value says is never a template.
            let (mut meant, mut rest) = (String::new(), text);
            while let Some((before, after)) = rest.split_once("{{") {
                let (name, after) = after.split_once("}}").unwrap();
                meant.push_str(before);
                meant.push_str(match name.trim() {
                    ".Port" => "1",
                    ".Socket" => "{{.Port}}",
                    ".SessionID" => "{{",
                    ".Principal" => "p",
                    ".Worker" => "",
                    ".Dir" => "}}",
                    other => panic!("{other} was taken for a variable"),
                });
                rest = after;
            }
            meant.push_str(rest);
            assert_eq!(template.render(&values), meant);
            let named = Variable::ALL.into_iter().any(|variable| template.names(variable));
            assert_eq!(named, text.contains("{{"), "{text:?}");
        }
        Err(TemplateError::Unclosed { at } | TemplateError::Unknown { at, .. }) => {
            assert!(text[at..].starts_with("{{"));
        }
    }
}
