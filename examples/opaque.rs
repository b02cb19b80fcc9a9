//! opaque
use conprof::scan::*;
fn main() {
    for p in std::env::args().skip(1) {
        let d = std::fs::read(&p).unwrap();
        let s = scan_module(&d, &|_, _| {}).unwrap();
        for f in &s.functions {
            let u = f.sites.iter().filter(|s| class_name(s.class).starts_with("unknown")).count();
            if u > 0 {
                println!(
                    "{} {:?} {}/{} {:#x} {:#}",
                    f.policy == Policy::Opaque,
                    u,
                    f.sites.len(),
                    f.instructions.len(),
                    f.start.0,
                    rustc_demangle::demangle(&f.symbol)
                );
            }
        }
    }
}
