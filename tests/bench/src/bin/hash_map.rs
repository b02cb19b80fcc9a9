//! Two threads fill, change and read hash maps of their own.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::thread;

fn main() {
    let threads: Vec<_> = (0..2u64)
        .map(|part| {
            thread::spawn(move || {
                let mut map: HashMap<u64, u64, BuildHasherDefault<DefaultHasher>> = HashMap::default();
                let mut key = part + 1;
                for i in 0..8_000_000u64 {
                    key = key.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    *map.entry(key >> 47).or_default() += i;
                }
                map.values().fold(0u64, |sum, value| sum.wrapping_add(*value))
            })
        })
        .collect();
    println!("{:?}", threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>());
}
