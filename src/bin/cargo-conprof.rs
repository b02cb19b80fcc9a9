//! `cargo conprof`: the same program under the name that cargo looks for.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(conprof::cli::main() as u8)
}
