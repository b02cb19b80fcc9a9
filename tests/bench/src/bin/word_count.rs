//! Threads count words into maps behind sixteen mutexes: a lock for every word.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Mutex;
use std::thread;

type Shard = Mutex<HashMap<String, u64, BuildHasherDefault<DefaultHasher>>>;

fn main() {
    let shards: Vec<Shard> = (0..16).map(|_| Mutex::default()).collect();
    let text: String = (0..40_000u64).map(|i| format!("w{} ", i.wrapping_mul(2_654_435_761) % 997)).collect();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..60 {
                    for word in text.split_ascii_whitespace() {
                        let shard = word.bytes().fold(0usize, |sum, byte| sum * 31 + byte as usize) % 16;
                        let mut map = shards[shard].lock().unwrap();
                        match map.get_mut(word) {
                            Some(count) => *count += 1,
                            None => {
                                map.insert(word.to_string(), 1);
                            }
                        }
                    }
                }
            });
        }
    });
    println!("{}", shards.iter().map(|shard| shard.lock().unwrap().values().sum::<u64>()).sum::<u64>());
}
