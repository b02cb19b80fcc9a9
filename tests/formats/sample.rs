//! Realistic reports, as a run of a small service would give them.

use conprof::report::*;

pub fn frame(function: &str, file: &str, line: u32) -> Frame {
    Frame {
        function: function.to_owned(),
        file: file.to_owned(),
        line,
        column: 9,
        inlined: false,
        module: "/srv/target/debug/app".to_owned(),
        module_offset: 0x1000 + u64::from(line),
        source: file.starts_with("src/").then(|| SourceExcerpt {
            first_line: line.saturating_sub(1).max(1),
            lines: vec!["    // <before> & \"quoted\"".to_owned(), format!("    line_{line}(); // </script>")],
        }),
    }
}

pub fn thread(serial: u32, name: &str) -> Thread {
    Thread {
        serial,
        tid: 4000 + serial,
        name: name.to_owned(),
        created_by: (serial > 0).then_some(0),
        created_at: if serial > 0 {
            vec![
                frame("std::thread::spawn", "/rustc/abc/library/std/src/thread/mod.rs", 700),
                frame("app::main", "src/main.rs", 10),
            ]
        } else {
            vec![]
        },
        running: false,
        start_ns: Some(u64::from(serial) * 100_000_000),
        end_ns: Some(1_400_000_000),
    }
}

pub fn lock(name: &str, address: &str, line: u32) -> LockRef {
    LockRef {
        name: name.to_owned(),
        kind: "std::sync::Mutex".to_owned(),
        type_name: String::new(),
        address: address.to_owned(),
        mode: "exclusive".to_owned(),
        acquired: vec![frame("app::with_lock", "src/locks.rs", line)],
    }
}

pub fn access(role: &str, thread: Thread, frames: Vec<Frame>) -> Stack {
    Stack { role: role.to_owned(), thread: Some(thread), size: Some(8), frames, ..Stack::default() }
}

pub fn finding(id: &str, kind: Kind, title: &str, stacks: Vec<Stack>) -> Finding {
    Finding {
        id: id.to_owned(),
        kind,
        confidence: Confidence::Confirmed,
        gating: true,
        suppressed: false,
        baseline: false,
        seen_in: SeenIn { k: 1, n: 1 },
        title: title.to_owned(),
        fix: "Hold `cache` at both accesses".to_owned(),
        count: 3,
        tests: vec![],
        stacks,
        waits_for: vec![],
        location: None,
        notes: vec![],
    }
}

pub const RACE: &str = "00112233445566aa";
pub const INVERSION: &str = "1111222233334444";
pub const DEADLOCK: &str = "9999888877776666";
pub const POSSIBLE: &str = "abcdefabcdef0123";

pub fn race() -> Finding {
    let mut write = access(
        "write",
        thread(1, "worker"),
        vec![
            frame("core::ptr::write", "/rustc/abc/library/core/src/ptr/mod.rs", 1500),
            frame("app::cache::Cache::put", "src/cache.rs", 42),
            frame("app::main::{closure#0}", "src/main.rs", 12),
        ],
    );
    write.locks_held = vec![lock("app::STATS", "0x55d0c0001000", 70)];
    let read = access(
        "read",
        thread(0, "app"),
        vec![frame("app::cache::Cache::get", "src/cache.rs", 57), frame("app::main", "src/main.rs", 20)],
    );
    let mut finding = finding(RACE, Kind::DataRace, "`Cache::put` writes while `Cache::get` reads", vec![write, read]);
    finding.location = Some(Location::Heap {
        address: "0x7f0000001000".to_owned(),
        size: 64,
        offset: 16,
        thread: 0,
        frames: vec![
            frame("alloc::alloc::alloc", "/rustc/abc/library/alloc/src/alloc.rs", 90),
            frame("app::cache::Cache::new", "src/cache.rs", 11),
        ],
    });
    finding
}

pub fn possible() -> Finding {
    let lost = Stack {
        role: "write".to_owned(),
        thread: Some(thread(2, "")),
        size: Some(1),
        lost: "older than the history kept; --history keeps more".to_owned(),
        ..Stack::default()
    };
    let read = access("read", thread(1, "worker"), vec![frame("app::flags::poll", "src/flags.rs", 5)]);
    let mut finding = finding(POSSIBLE, Kind::DataRace, "`poll` reads FLAG while it is written", vec![read, lost]);
    finding.confidence = Confidence::Possible;
    finding.gating = false;
    finding.location = Some(Location::Global {
        name: "app::flags::FLAG".to_owned(),
        size: 1,
        offset: 0,
        address: "0x55d0c0002000".to_owned(),
        file: "src/flags.rs".to_owned(),
        line: 2,
    });
    finding
}

pub fn inversion() -> Finding {
    let side = |thread, wanted: (&str, &str, u32), held: (&str, &str, u32), line| Stack {
        role: "wanted".to_owned(),
        thread: Some(thread),
        lock: Some(lock(wanted.0, wanted.1, wanted.2)),
        locks_held: vec![lock(held.0, held.1, held.2)],
        frames: vec![frame("app::transfer", "src/bank.rs", line)],
        ..Stack::default()
    };
    let (a, b) = (("app::A", "0x55d0c0003000", 30), ("app::B", "0x55d0c0003010", 31));
    let stacks = vec![side(thread(1, "worker"), b, a, 33), side(thread(2, "audit"), a, b, 44)];
    finding(INVERSION, Kind::LockOrderInversion, "A and B are taken in both orders", stacks)
}

pub fn deadlock() -> Finding {
    let waiting = |thread, line| Stack {
        role: "waiting".to_owned(),
        thread: Some(thread),
        lock: Some(lock("app::A", "0x55d0c0003000", 30)),
        frames: vec![frame("app::stuck", "src/bank.rs", line)],
        ..Stack::default()
    };
    let mut finding = finding(
        DEADLOCK,
        Kind::Deadlock,
        "T1 and T2 wait for each other",
        vec![waiting(thread(1, "worker"), 80), waiting(thread(2, "audit"), 90)],
    );
    finding.waits_for = vec![
        WaitsFor { thread: "T1".to_owned(), lock: "app::B".to_owned(), holder: "T2".to_owned() },
        WaitsFor { thread: "T2".to_owned(), lock: "app::A".to_owned(), holder: "T1".to_owned() },
    ];
    finding
}

pub fn report(findings: Vec<Finding>) -> Report {
    let gates = findings.iter().any(|finding| finding.gating);
    Report {
        schema: SCHEMA,
        verdict: if gates { Verdict::Findings } else { Verdict::Clean },
        processes: vec![Process {
            program: "./target/debug/app".to_owned(),
            pid: 19219,
            exit: Some(Exit::Code(0)),
            duration_ns: 1_500_000_000,
        }],
        coverage: Coverage {
            modules: vec![ModuleCoverage {
                path: "/srv/target/debug/app".to_owned(),
                build_id: "c0ffee".to_owned(),
                debuginfo: "full".to_owned(),
                accesses_by_class: [("read".to_owned(), 120), ("write".to_owned(), 80)].into(),
                instrumented: 199,
                skipped_by_reason: [("too short to patch".to_owned(), 1)].into(),
            }],
            ..Coverage::default()
        },
        findings,
        locks: vec![
            LockSummary {
                name: "app::A".to_owned(),
                kind: "std::sync::Mutex".to_owned(),
                acquisitions: 100,
                contended: 10,
                wait_ns: 5_000_000,
                max_wait_ns: 900_000,
                hold_ns: 3_000,
                hold_samples: 3,
                ..LockSummary::default()
            },
            LockSummary { name: "app::B".to_owned(), acquisitions: 7000, wait_ns: 1_000, ..LockSummary::default() },
        ],
        threads: vec![thread(0, "app"), thread(1, "worker"), thread(2, "audit")],
        command: Some(vec!["./target/debug/app".to_owned(), "--port".to_owned(), "80".to_owned()]),
        conprof_version: "0.1.0".to_owned(),
        ..Report::default()
    }
}

pub fn everything() -> Report {
    report(vec![race(), deadlock(), inversion(), possible()])
}

/// `count` findings with distinct fingerprints and places, and `depth` frames of callers each.
pub fn many(count: usize, depth: u32) -> Report {
    let findings = (0..count).map(|number| {
        let mut finding = race();
        finding.id = format!("{number:016x}");
        finding.title = format!("race number {number}");
        for stack in &mut finding.stacks {
            for (depth, frame) in stack.frames.iter_mut().enumerate() {
                frame.line = (number * 10 + depth) as u32;
            }
            let deep =
                (0..depth).map(|depth| frame(&format!("app::layer_{depth}::call"), "src/layers.rs", 100 + depth));
            stack.frames.extend(deep);
        }
        finding
    });
    report(findings.collect())
}
