//! unknown
use conprof::dwarf::*;
use conprof::elf::*;
use conprof::scan::*;
use std::collections::BTreeMap;
fn main() {
    for p in std::env::args().skip(1) {
        let d = std::fs::read(&p).unwrap();
        let s = scan_module(&d, &|_, _| {}).unwrap();
        let image = Image::parse(&d).unwrap();
        let secs = load_sections(&image);
        let dbg = DebugInfo::parse(&image, &secs, &|_, _| {});
        let mut m: BTreeMap<String, u64> = BTreeMap::new();
        for f in &s.functions {
            for x in &f.sites {
                if class_name(x.class).starts_with("unknown") {
                    let pl = dbg.place(x.pc.0);
                    let fr = dbg.frames(&pl).next().map(|f| String::from_utf8_lossy(f.plain_name()).into_owned());
                    let k = format!(
                        "{} row={} frame={} stack={} {}",
                        class_name(x.class),
                        match pl.row {
                            None => "none".into(),
                            Some((_, 0)) => "0".to_string(),
                            Some(_) => "some".to_string(),
                        },
                        if fr.is_some() { "y" } else { "n" },
                        x.flags.0 & 32 != 0,
                        if matches!(pl.row, Some((_, l)) if l > 0) { fr.unwrap_or_default() } else { String::new() }
                    );
                    *m.entry(k).or_default() += 1;
                }
            }
        }
        let mut v: Vec<_> = m.into_iter().collect();
        v.sort_by_key(|x| std::cmp::Reverse(x.1));
        for (k, n) in v.iter().take(30) {
            println!("{n} {k}");
        }
    }
}
