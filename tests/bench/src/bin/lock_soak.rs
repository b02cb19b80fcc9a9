//! Lock operations of every sort at a steady rate, for as long as asked: what it costs to watch them must not grow.
//!
//! `lock_soak SECONDS [OPERATIONS_PER_SECOND]`: prints how many acquisitions and releases were made. Four threads take sharded, nested,
//! contended and shared locks of std and parking_lot from ever new depths of the stack; locks are made and freed, threads start and end, messages go round.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, RwLock, mpsc};
use std::time::{Duration, Instant};

const THREADS: u64 = 4;
/// Acquisitions and releases in a round of [`round`].
const ROUND: u64 = 2 * 24;

#[derive(Default)]
struct Shared {
    hot: Mutex<u64>,
    table: RwLock<u64>,
    outer: Mutex<u64>,
    inner: Mutex<u64>,
    fair: parking_lot::Mutex<u64>,
    index: parking_lot::RwLock<u64>,
    turn: Mutex<u64>,
    turned: Condvar,
}

fn round(shared: &Shared, shards: &[Mutex<u64>], n: u64) {
    for at in 0..12 {
        let shard = (n.wrapping_add(at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize;
        *shards[shard].lock().expect("not poisoned") += 1;
    }
    *shared.hot.lock().expect("not poisoned") += 1;
    black_box(*shared.table.read().expect("not poisoned"));
    *shared.table.write().expect("not poisoned") += 1;
    {
        let mut outer = shared.outer.lock().expect("not poisoned");
        *outer += 1;
        *shared.inner.lock().expect("not poisoned") += *outer;
    }
    *shared.fair.lock() += 1;
    black_box(*shared.index.read());
    *shared.index.write() += 1;
    for _ in 0..4 {
        let fresh = Box::new(Mutex::new(n));
        *fresh.lock().expect("not poisoned") += 1;
        black_box(&fresh);
    }
}

/// The same from another depth of the stack, and so from another calling context.
#[inline(never)]
fn deeper(depth: u64, work: &mut dyn FnMut()) {
    if depth == 0 {
        work();
    } else {
        deeper(depth - 1, work);
        black_box(depth);
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|word| word.parse::<u64>().expect("a number"));
    let seconds = arguments.next().expect("usage: lock_soak SECONDS [OPERATIONS_PER_SECOND]");
    let rate = arguments.next().unwrap_or(1_000_000);
    let rounds = (rate * seconds).div_ceil(ROUND * THREADS);
    let (shared, done) = (Shared::default(), AtomicU64::new(0));
    let shards: Vec<Mutex<u64>> = (0..256).map(|_| Mutex::new(0)).collect();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::sync_channel::<u64>(16);
        scope.spawn(move || receive.into_iter().fold(0u64, u64::wrapping_add));
        for thread in 0..THREADS {
            let (shared, shards, done, send) = (&shared, &shards, &done, send.clone());
            scope.spawn(move || {
                for n in 0..rounds {
                    // Not faster than asked; what a busy machine holds back is caught up on.
                    let due = Duration::from_nanos(n * ROUND * THREADS * 1_000_000_000 / rate);
                    if n % 8 == 0 && due > start.elapsed() {
                        std::thread::sleep(due - start.elapsed().min(due));
                    }
                    deeper(n % 24, &mut || round(shared, shards, n * THREADS + thread));
                    done.fetch_add(ROUND, Ordering::Relaxed);
                    if n % 64 == 0 {
                        send.send(n).expect("somebody receives");
                        *shared.turn.lock().expect("not poisoned") += 1;
                        shared.turned.notify_all();
                        let turn = shared.turn.lock().expect("not poisoned");
                        drop(shared.turned.wait_timeout(turn, Duration::from_micros(50)).expect("not poisoned"));
                    }
                    if n % 512 == 0 {
                        std::thread::scope(|scope| {
                            scope.spawn(|| *shared.hot.lock().expect("not poisoned") += 1);
                        });
                    }
                }
            });
        }
    });
    println!("{} operations in {:.1} s", done.load(Ordering::Relaxed), start.elapsed().as_secs_f64());
}
