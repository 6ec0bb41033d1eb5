//! The JSON Schema of herd.yaml, generated from the raw types so that it cannot drift from them.

use super::raw;

/// JSON Schema (2020-12), pretty-printed, as checked in at `docs/herd.schema.json`.
pub fn schema() -> String {
    let schema = schemars::schema_for!(raw::File);
    format!("{:#}\n", schema.as_value())
}
