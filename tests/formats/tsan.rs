//! ThreadSanitizer's layout.

use crate::sample;
use conprof::report::tsan;

#[test]
fn a_race_has_the_layout_that_scripts_read() {
    let text = tsan::render(&sample::report(vec![sample::race()]));
    let expected = "\
==================
WARNING: conprof: data race (pid=19219)
  Write of size 8 at 0x7f0000001010 by thread T1 (mutexes: write M0):
    #0 core::ptr::write /rustc/abc/library/core/src/ptr/mod.rs:1500:9 (app+0x15dc)
    #1 app::cache::Cache::put src/cache.rs:42:9 (app+0x102a)
    #2 app::main::{closure#0} src/main.rs:12:9 (app+0x100c)

  Previous read of size 8 at 0x7f0000001010 by main thread:
    #0 app::cache::Cache::get src/cache.rs:57:9 (app+0x1039)
    #1 app::main src/main.rs:20:9 (app+0x1014)

  Location is heap block of size 64 at 0x7f0000001000 allocated by main thread:
    #0 alloc::alloc::alloc /rustc/abc/library/alloc/src/alloc.rs:90:9 (app+0x105a)
    #1 app::cache::Cache::new src/cache.rs:11:9 (app+0x100b)

  Mutex M0 (0x55d0c0001000) is app::STATS, acquired at:
    #0 app::with_lock src/locks.rs:70:9 (app+0x1046)

  Thread T1 'worker' (tid=4001, finished) created by main thread at:
    #0 std::thread::spawn /rustc/abc/library/std/src/thread/mod.rs:700:9 (app+0x12bc)
    #1 app::main src/main.rs:10:9 (app+0x100a)

SUMMARY: conprof: data race src/cache.rs:42 in app::cache::Cache::put
==================
conprof: reported 1 warnings
";
    assert_eq!(text, expected);
}

#[test]
fn an_inversion_shows_its_cycle() {
    let text = tsan::render(&sample::report(vec![sample::inversion()]));
    for line in [
        "WARNING: conprof: lock-order-inversion (potential deadlock) (pid=19219)",
        "  Cycle in lock order graph: M0 (0x55d0c0003000) => M1 (0x55d0c0003010) => M0",
        "  Mutex M1 acquired here while holding mutex M0 in thread T1:",
        "  Mutex M0 acquired here while holding mutex M1 in thread T2:",
        "SUMMARY: conprof: lock-order-inversion (potential deadlock) src/bank.rs:33 in app::transfer",
    ] {
        assert!(text.lines().any(|l| l == line), "`{line}` is missing in\n{text}");
    }
}

#[test]
fn a_lost_stack_says_so_and_every_kind_is_counted() {
    let text = tsan::render(&sample::everything());
    assert!(
        text.contains("Previous write of size 1 at 0x55d0c0002000 by thread T2:\n    [failed to restore the stack]\n")
    );
    assert!(text.contains("Location is global 'app::flags::FLAG' of size 1 at 0x55d0c0002000"));
    assert!(text.contains("WARNING: conprof: data race (possible) (pid=19219)"));
    assert!(text.contains("  T1 waits for app::B, which T2 holds\n"));
    assert!(text.ends_with("conprof: reported 4 warnings\n"));
    assert_eq!(text.matches("SUMMARY: conprof: ").count(), 4);
}

#[test]
fn accepted_findings_are_left_out() {
    let mut report = sample::everything();
    report.findings[0].suppressed = true;
    report.findings[1].baseline = true;
    let text = tsan::render(&report);
    assert!(text.ends_with("conprof: reported 2 warnings\n"));
    assert_eq!(tsan::render(&sample::report(vec![])), "");
}
