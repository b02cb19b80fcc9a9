//! Boxes go through three stages over bounded crossbeam channels.

use crossbeam_channel::bounded;
use std::thread;

fn main() {
    let (to_middle, from_source) = bounded::<Box<[u64; 8]>>(64);
    let (to_sink, from_middle) = bounded::<Box<[u64; 8]>>(64);
    let source = thread::spawn(move || {
        for i in 0..300_000u64 {
            to_middle.send(Box::new([i; 8])).unwrap();
        }
    });
    let middle = thread::spawn(move || {
        for mut item in from_source {
            for (i, cell) in item.iter_mut().enumerate() {
                *cell = cell.wrapping_mul(31).wrapping_add(i as u64);
            }
            to_sink.send(item).unwrap();
        }
    });
    let sum = from_middle.iter().fold(0u64, |sum, item| sum.wrapping_add(item.iter().sum()));
    source.join().unwrap();
    middle.join().unwrap();
    println!("{sum}");
}
