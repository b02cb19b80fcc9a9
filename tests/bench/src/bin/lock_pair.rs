//! What an uncontended pair of lock and unlock costs, in nanoseconds of CPU time per pair, by type of lock.
//!
//! `lock_pair [MILLIONS]`: one line per type: its name and the cost. Another thread exists, and waits.

use std::hint::black_box;
use std::sync::{Mutex, RwLock, mpsc};

/// Nanoseconds that this thread has spent on a processor.
fn cpu_ns() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel tells");
    text.split(' ').next().and_then(|first| first.parse().ok()).expect("a number")
}

fn measured(name: &str, pairs: u64, mut pair: impl FnMut(u64)) {
    for n in 0..pairs / 10 {
        pair(n);
    }
    let best = (0..9)
        .map(|_| {
            let start = cpu_ns();
            for n in 0..pairs {
                pair(n);
            }
            (cpu_ns() - start) / pairs as f64
        })
        .fold(f64::INFINITY, f64::min);
    println!("{name} {best:.2}");
}

fn main() {
    let millions: u64 = std::env::args().nth(1).map_or(90, |word| word.parse().expect("a number"));
    let pairs = millions * 1_000_000 / 9;
    let (keep, end) = mpsc::channel::<()>();
    let other = std::thread::spawn(move || end.recv().is_err());

    let one = Mutex::new(0u64);
    measured("mutex", pairs, |n| *one.lock().expect("not poisoned") += black_box(n));

    let many: Vec<Mutex<u64>> = (0..64).map(Mutex::new).collect();
    measured("sharded", pairs, |n| {
        let shard = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize;
        *many[shard].lock().expect("not poisoned") += black_box(n);
    });

    let fair = parking_lot::Mutex::new(0u64);
    measured("parking_lot", pairs, |n| *fair.lock() += black_box(n));

    let shared = RwLock::new(1u64);
    measured("read", pairs, |n| {
        black_box(*shared.read().expect("not poisoned") + n);
    });
    measured("write", pairs, |n| *shared.write().expect("not poisoned") += black_box(n));

    let (outer, inner) = (Mutex::new(0u64), Mutex::new(0u64));
    measured("nested", pairs, |n| {
        let mut outer = outer.lock().expect("not poisoned");
        *inner.lock().expect("not poisoned") += black_box(n);
        *outer += 1;
    });
    drop(keep);
    assert!(other.join().expect("it ended"));
}
