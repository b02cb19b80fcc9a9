//! Exit statuses of conprof. Where none of these applies, conprof ends as the program did.

/// A finding gates.
pub const FINDINGS: i32 = 66;
/// A check that was asked for could not be done (`--require-complete`, or `--checks` that names it).
pub const INCOMPLETE: i32 = 69;
/// `--timeout` ended the program and nothing gates.
pub const TIMEOUT: i32 = 124;
/// The command line is wrong, or names something that conprof refuses.
pub const USAGE: i32 = 2;
/// conprof itself failed.
pub const INTERNAL: i32 = 70;
/// The program exists but can't be executed.
pub const NOT_EXECUTABLE: i32 = 126;
/// The program does not exist.
pub const NOT_FOUND: i32 = 127;
