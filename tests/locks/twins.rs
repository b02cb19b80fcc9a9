//! Each program with a fault has a twin without, and there are enough of each sort.

use super::{Fixture, fixtures};
use libtest_mimic::Failed;

/// Finds the twin that is named, or is called by the name with `_fixed`.
fn has_twin(fixture: &Fixture, all: &[Fixture]) -> bool {
    let name = fixture.twin.clone().unwrap_or_else(|| format!("{}_fixed", fixture.name));
    all.iter().any(|other| other.name == name && other.expect == "clean")
}

pub fn there_are_enough() -> Result<(), Failed> {
    let all = fixtures();
    let without: Vec<&str> = all
        .iter()
        .filter(|fixture| {
            fixture.expect != "clean" && !fixture.name.starts_with("dl_task_") && !has_twin(fixture, &all)
        })
        .map(|fixture| fixture.name.as_str())
        .collect();
    if !without.is_empty() {
        return Err(format!("without a twin: {without:?}").into());
    }
    let count = |kinds: &[&str]| all.iter().filter(|fixture| kinds.contains(&fixture.expect.as_str())).count();
    let silent = all.iter().filter(|fixture| fixture.folder == "lockorder" && fixture.expect == "clean").count();
    let counts = [
        ("lock order", count(&["lock-order-inversion"]) + silent, 12),
        ("silent lock order", silent, 5),
        ("hangs", count(&["deadlock", "lost-wakeup"]), 12),
        ("starvation or livelock", count(&["starvation", "livelock"]), 8),
        ("of tasks", all.iter().filter(|f| f.name.starts_with("as_") || f.name.starts_with("dl_task_")).count(), 8),
    ];
    for (what, found, wanted) in counts {
        if found < wanted {
            return Err(format!("{what}: {found} programs, not {wanted}").into());
        }
    }
    for library in ["parking_lot::", "libc::pthread_", "std::sync::"] {
        for kinds in [&["lock-order-inversion"][..], &["deadlock", "lost-wakeup"], &["starvation", "livelock"]] {
            let uses =
                |f: &&Fixture| f.source.contains(library) || library == "libc::pthread_" && f.source.contains("Raw");
            if !all.iter().filter(uses).any(|fixture| kinds.contains(&fixture.expect.as_str())) {
                return Err(format!("{kinds:?}: no program with {library}").into());
            }
        }
    }
    Ok(())
}
