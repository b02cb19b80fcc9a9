//! scan by hand
#[path = "../src/cli/scan.rs"]
mod scan_cli;
use conprof::*;
fn main() {
    let a: Vec<_> = std::env::args().collect();
    let f = scan_cli::Format { json: a.iter().any(|x| x == "--json"), sites: a.iter().any(|x| x == "--sites") };
    for p in &a[1..] {
        if !p.starts_with("--") {
            if let Err(e) = scan_cli::run(std::path::Path::new(p), f) {
                println!("{e}")
            }
        }
    }
}
