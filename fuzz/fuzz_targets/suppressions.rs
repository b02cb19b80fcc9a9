//! A file of suppressions, and its patterns on names taken from the same input.

#![no_main]

use conprof::suppress::{Pattern, Suppressions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (&str, &str)| {
    let (text, name) = data;
    Suppressions::default().add_text(text, "fuzz");
    for line in text.lines() {
        Pattern::new(line).matches(name);
    }
});
