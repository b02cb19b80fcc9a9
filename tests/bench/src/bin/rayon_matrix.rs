//! A matrix product over rayon's threads, by rows.

use rayon::prelude::*;

const N: usize = 360;

fn main() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let a: Vec<f64> = (0..N * N).map(|i| (i % 17) as f64).collect();
    let b: Vec<f64> = (0..N * N).map(|i| (i % 13) as f64).collect();
    let mut c = vec![0.0; N * N];
    for _ in 0..12 {
        pool.install(|| {
            c.par_chunks_mut(N).enumerate().for_each(|(i, row)| {
                for (j, cell) in row.iter_mut().enumerate() {
                    *cell += (0..N).map(|k| a[i * N + k] * b[k * N + j]).sum::<f64>();
                }
            })
        });
    }
    println!("{}", c.iter().sum::<f64>());
}
