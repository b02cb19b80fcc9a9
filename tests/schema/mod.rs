//! The published schema of report.json, for every test that reads one.
//!
//! Readers must allow unknown fields; conprof itself may write none, so that the schema describes all there is.

use serde_json::Value;
use std::sync::LazyLock;

static CLOSED: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let mut schema = serde_json::from_str(include_str!("../../docs/report.schema.json")).expect("the schema is JSON");
    close(&mut schema);
    jsonschema::validator_for(&schema).expect("the schema is one")
});

/// Forbids unknown fields in every object whose fields the schema lists.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            if fields.get("properties").is_some_and(Value::is_object) && fields.get("type") == Some(&"object".into()) {
                fields.insert("additionalProperties".into(), false.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// Checks the text of a report.json.
pub fn check(text: &str) -> Result<(), String> {
    let report = serde_json::from_str(text).map_err(|error| format!("report.json is no JSON: {error}"))?;
    let errors: Vec<String> =
        CLOSED.iter_errors(&report).map(|error| format!("{}: {error}", error.instance_path())).collect();
    if errors.is_empty() { Ok(()) } else { Err(format!("report.json and its schema disagree: {errors:#?}")) }
}

/// The same, for tests that fail by panicking.
#[allow(dead_code)]
#[track_caller]
pub fn assert_valid(text: &str) {
    check(text).unwrap_or_else(|why| panic!("{why}"));
}
