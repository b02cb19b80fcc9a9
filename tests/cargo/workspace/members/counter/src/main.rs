//! Counts from as many threads as the first argument says.

fn main() {
    let threads = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1);
    counter::bump_from(threads);
    println!("counted");
}
