//! Tests from outside.

#[test]
fn from_outside_it_races_too() {
    counter::bump_from(3);
}
