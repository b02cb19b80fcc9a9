//! The `conprof` program.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(conprof::cli::main() as u8)
}
