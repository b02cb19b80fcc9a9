//! Uses std's concurrency in many ways; compiled by the test `scan_ground_truth`, never run.

use std::collections::HashMap;
use std::sync::atomic::*;
use std::sync::*;
use std::thread;
use std::time::Duration;
static READY: AtomicBool = AtomicBool::new(false);
static TOTAL: AtomicU64 = AtomicU64::new(0);
static NEXT: AtomicPtr<Node> = AtomicPtr::new(std::ptr::null_mut());
pub struct Node {
    next: *mut Node,
    value: u64,
}
fn push(v: u64) {
    let n = Box::into_raw(Box::new(Node { next: std::ptr::null_mut(), value: v }));
    loop {
        let h = NEXT.load(Ordering::Relaxed);
        unsafe {
            (*n).next = h;
        }
        if NEXT.compare_exchange_weak(h, n, Ordering::Release, Ordering::Relaxed).is_ok() {
            break;
        }
    }
}
fn pop() -> Option<u64> {
    loop {
        let h = NEXT.load(Ordering::Acquire);
        if h.is_null() {
            return None;
        }
        let n = unsafe { (*h).next };
        if NEXT.compare_exchange(h, n, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return Some(unsafe { (*h).value });
        }
    }
}
struct Stats {
    hits: AtomicUsize,
    misses: AtomicI32,
    flags: AtomicU8,
    small: AtomicU16,
    last: Mutex<Option<String>>,
    map: RwLock<HashMap<u32, Vec<u64>>>,
    cell: OnceLock<String>,
}
impl Stats {
    fn note(&self, k: u32, v: u64) {
        if k % 2 == 0 {
            self.hits.fetch_add(1, Ordering::Relaxed);
        } else {
            self.misses.fetch_sub(1, Ordering::AcqRel);
        }
        self.flags.fetch_or(k as u8, Ordering::SeqCst);
        let old = self.small.fetch_max(k as u16, Ordering::Relaxed);
        if old > 3 {
            self.small.store(old - 1, Ordering::Release);
        }
        self.map.write().unwrap().entry(k).or_default().push(v);
        *self.last.lock().unwrap() = Some(format!("{k}={v}"));
        let _ = self.cell.get_or_init(|| format!("first {k}"));
    }
    fn total(&self) -> u64 {
        let m = self.map.read().unwrap();
        m.values().flat_map(|v| v.iter()).sum::<u64>() + self.hits.load(Ordering::SeqCst) as u64
    }
}
fn spin() {
    while !READY.load(Ordering::Acquire) {
        std::hint::spin_loop();
    }
}
fn local() -> u32 {
    let a = AtomicU32::new(0);
    thread::scope(|s| {
        s.spawn(|| a.store(1, Ordering::Release));
        s.spawn(|| a.fetch_add(2, Ordering::SeqCst));
    });
    a.load(Ordering::Acquire)
}
fn main() {
    let s = Arc::new(Stats {
        hits: AtomicUsize::new(0),
        misses: AtomicI32::new(0),
        flags: AtomicU8::new(0),
        small: AtomicU16::new(0),
        last: Mutex::new(None),
        map: RwLock::new(HashMap::new()),
        cell: OnceLock::new(),
    });
    let (tx, rx) = mpsc::channel::<(u32, u64)>();
    let (stx, srx) = mpsc::sync_channel::<String>(2);
    let pair = Arc::new((Mutex::new(false), Condvar::new()));
    let bar = Arc::new(Barrier::new(3));
    let mut hs = vec![];
    for i in 0..3u32 {
        let (s, tx, stx, pair, bar) = (s.clone(), tx.clone(), stx.clone(), pair.clone(), bar.clone());
        hs.push(
            thread::Builder::new()
                .name(format!("w{i}"))
                .spawn(move || {
                    spin();
                    bar.wait();
                    for k in 0..100u32 {
                        s.note(k, u64::from(k * i));
                        push(u64::from(k));
                        let _ = tx.send((k, 1));
                    }
                    TOTAL.fetch_add(s.total(), Ordering::Relaxed);
                    let _ = stx.try_send(format!("done {i}"));
                    let mut g = pair.0.lock().unwrap();
                    *g = true;
                    pair.1.notify_all();
                    drop(g);
                })
                .unwrap(),
        );
    }
    drop(tx);
    READY.store(true, Ordering::Release);
    let mut n = 0;
    while let Ok((a, b)) = rx.recv() {
        n += u64::from(a) * b;
        if let Some(v) = pop() {
            n += v
        }
    }
    let mut g = pair.0.lock().unwrap();
    while !*g {
        g = pair.1.wait_timeout(g, Duration::from_millis(10)).unwrap().0;
    }
    drop(g);
    let w = Arc::downgrade(&s);
    for h in hs {
        h.join().unwrap();
    }
    if let Some(s) = w.upgrade() {
        println!("{} {} {:?}", s.total(), s.flags.load(Ordering::Relaxed), s.last.lock().unwrap());
    }
    println!("{n} {} {} {:?}", TOTAL.swap(0, Ordering::AcqRel), local(), srx.try_recv());
}
