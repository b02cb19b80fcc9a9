//! The command line from outside: exit statuses, signals, refusals, the result folder, transparency.

mod builds;
mod hostile_recording;
mod out_dir;
mod outcome;
mod program;
mod refusals;
mod report_json;
#[path = "../schema/mod.rs"]
mod schema;
mod signals;
mod trouble;
