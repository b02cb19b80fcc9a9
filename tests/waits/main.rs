//! Where waiting goes: conprof's figures against the programs' own, its pictures and files against their readers.

mod browser;
mod export;
mod perf;
mod program;
#[path = "../schema/mod.rs"]
mod schema;
mod tasks;
mod truth;
