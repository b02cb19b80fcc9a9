//! report.json is what docs/report.schema.json says.

use conprof::report::Report;

#[test]
fn the_schema_is_a_schema_and_takes_an_empty_report() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../docs/report.schema.json")).expect("the schema is JSON");
    let validator = jsonschema::validator_for(&schema).expect("the schema is one");
    let mut report = serde_json::to_value(Report { schema: 1, ..Report::default() }).expect("JSON");
    assert!(
        validator.is_valid(&report),
        "{:?}",
        validator.iter_errors(&report).map(|e| e.to_string()).collect::<Vec<_>>()
    );
    report["a field of a later version"] = 1.into();
    assert!(validator.is_valid(&report), "unknown fields are allowed");
    report["verdict"] = "perhaps".into();
    assert!(!validator.is_valid(&report), "verdicts are a closed list");
}
