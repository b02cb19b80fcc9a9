//! Two threads sweep over arrays of their own: loads and stores of words, nothing else.

use std::hint::black_box;
use std::thread;

#[inline(never)]
fn sweep(cells: &mut [u64], rounds: u64) -> u64 {
    let mut sum = 0u64;
    for round in 0..rounds {
        for i in 1..cells.len() {
            cells[i] = (cells[i] ^ round).wrapping_mul(3).wrapping_add(cells[i - 1]);
        }
        sum = sum.wrapping_add(cells[cells.len() - 1]);
    }
    sum
}

fn main() {
    let threads: Vec<_> = (0..2)
        .map(|part| {
            thread::spawn(move || {
                let mut cells: Vec<u64> = (0..250_000).map(|i| i * part).collect();
                sweep(black_box(&mut cells), 2_000)
            })
        })
        .collect();
    println!("{:?}", threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>());
}
