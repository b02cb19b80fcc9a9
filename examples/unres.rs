//! unresolved
use conprof::scan::*;
use iced_x86::{FlowControl, Formatter, GasFormatter, OpKind};
fn main() {
    for p in std::env::args().skip(1) {
        let d = std::fs::read(&p).unwrap();
        let s = scan_module(&d, &|_, _| {}).unwrap();
        println!("== {p}");
        for f in &s.functions {
            if let Policy::Native(r) = f.policy {
                if r != "unresolved jump table" && !r.contains("runs past") {
                    continue;
                }
                println!("{:#x}..{:#x} {} {} ins {}", f.start.0, f.end.0, f.symbol, r, f.instructions.len());
                let mut fm = GasFormatter::new();
                for (i, x) in f.instructions.iter().enumerate() {
                    if x.flow_control() == FlowControl::IndirectBranch && x.op0_kind() == OpKind::Register {
                        for y in &f.instructions[i.saturating_sub(6)..=i] {
                            let mut o = String::new();
                            fm.format(y, &mut o);
                            println!("    {:#x} {o}", y.ip());
                        }
                        println!();
                    }
                }
            }
        }
    }
}
