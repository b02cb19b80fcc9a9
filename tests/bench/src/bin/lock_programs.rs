//! Programs whose locks are watched, to be timed by `tests/bench/waiting.py`: `lock_programs hot|channel|words|echo|rayon`.
//!
//! Prints three figures in nanoseconds: the process's CPU time, what of it was spent after `main` began, and the time since then.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Nanoseconds of CPU time of the process so far, ended threads included.
fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is valid for writes.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Some hundred nanoseconds of work.
#[inline(never)]
fn digest(mut x: u64) -> u64 {
    for _ in 0..64 {
        x = (x ^ (x >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    x
}

/// Four threads at one mutex, with a little work inside and as much outside.
fn hot() -> u64 {
    let sum = Mutex::new(0u64);
    thread::scope(|scope| {
        for thread in 0..4 {
            let sum = &sum;
            scope.spawn(move || {
                for n in 0..1_000_000u64 {
                    let own = digest(n + thread);
                    let mut sum = sum.lock().expect("not poisoned");
                    *sum = sum.wrapping_add(digest(own));
                }
            });
        }
    });
    sum.into_inner().expect("not poisoned")
}

/// Messages through three stages, each behind a bounded channel.
fn channel() -> u64 {
    let (first, second_in) = mpsc::sync_channel::<Vec<u64>>(64);
    let (second, third_in) = mpsc::sync_channel::<Vec<u64>>(64);
    thread::scope(|scope| {
        scope.spawn(move || {
            for n in 0..60_000u64 {
                first.send((0..32).map(|k| n * k).collect()).expect("somebody receives");
            }
        });
        scope.spawn(move || {
            for block in second_in {
                second.send(block.into_iter().map(digest).collect()).expect("somebody receives");
            }
        });
        scope.spawn(move || third_in.into_iter().flatten().fold(0u64, u64::wrapping_add)).join().expect("it ended")
    })
}

/// Words counted in 64 maps, each under a mutex of its own.
fn words() -> u64 {
    let shards: Vec<Mutex<HashMap<u64, u64>>> = (0..64).map(|_| Mutex::default()).collect();
    thread::scope(|scope| {
        for thread in 0..4u64 {
            let shards = &shards;
            scope.spawn(move || {
                for n in 0..1_500_000u64 {
                    let word = digest(n % 20_000 + thread);
                    *shards[(word >> 58) as usize].lock().expect("not poisoned").entry(word).or_default() += 1;
                }
            });
        }
    });
    shards.iter().map(|shard| shard.lock().expect("not poisoned").values().sum::<u64>()).sum()
}

/// A tokio echo server on loopback, eight clients that send as fast as they are answered.
fn echo() -> u64 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let sessions: Arc<Mutex<HashMap<u16, u64>>> = Arc::default();
        let own = Arc::clone(&sessions);
        tokio::spawn(async move {
            while let Ok((mut stream, peer)) = listener.accept().await {
                let sessions = Arc::clone(&own);
                tokio::spawn(async move {
                    let mut buffer = [0; 512];
                    while let Ok(len @ 1..) = stream.read(&mut buffer).await {
                        *sessions.lock().expect("not poisoned").entry(peer.port()).or_default() += len as u64;
                        stream.write_all(&buffer[..len]).await.expect("the peer reads");
                    }
                });
            }
        });
        let clients: Vec<_> = (0..8)
            .map(|_| {
                tokio::spawn(async move {
                    let mut stream = TcpStream::connect(address).await.expect("the server");
                    let mut buffer = [7; 256];
                    for _ in 0..8_000 {
                        stream.write_all(&buffer).await.expect("the server reads");
                        stream.read_exact(&mut buffer).await.expect("an answer");
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.expect("it ended");
        }
        // The servers' tasks see the end of their streams.
        tokio::time::sleep(Duration::from_millis(1)).await;
        sessions.lock().expect("not poisoned").values().sum()
    })
}

/// Sums over rayon's threads, merged under one mutex now and then.
fn sums() -> u64 {
    use rayon::prelude::*;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool");
    let total = Mutex::new(0u64);
    pool.install(|| {
        (0..20_000u64).into_par_iter().for_each(|n| {
            let sum = (0..500).fold(n, |x, k| x.wrapping_add(digest(x ^ k)));
            *total.lock().expect("not poisoned") ^= sum;
        });
    });
    total.into_inner().expect("not poisoned")
}

fn main() {
    let (begun, start) = (cpu_ns(), Instant::now());
    let result = match std::env::args().nth(1).as_deref() {
        Some("hot") => hot(),
        Some("channel") => channel(),
        Some("words") => words(),
        Some("echo") => echo(),
        Some("rayon") => sums(),
        _ => panic!("usage: lock_programs hot|channel|words|echo|rayon"),
    };
    black_box(result);
    let end = cpu_ns();
    println!("{end} {} {}", end - begun, start.elapsed().as_nanos());
}
