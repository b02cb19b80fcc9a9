//! The `conprof` program.
fn main() {}
