//! Recipes of bundles.

use std::path::Path;

use crate::bundle::recipe;
use crate::yaml;

pub fn recipe(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    match recipe::parse(text, "recipe.yaml", Path::new("/recipes")) {
        Ok(recipe) => {
            for path in recipe.files.iter().map(|copied| &copied.source) {
                assert!(path.is_absolute(), "{path:?}");
            }
        }
        Err(problems) => yaml::fuzz::stand_in(&problems, text),
    }
}
