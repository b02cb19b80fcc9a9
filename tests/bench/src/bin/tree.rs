//! Two threads build and search binary trees of boxes: pointer chasing and allocation.

use std::thread;

struct Node {
    key: u64,
    left: Option<Box<Node>>,
    right: Option<Box<Node>>,
}

fn insert(mut slot: &mut Option<Box<Node>>, key: u64) {
    while let Some(node) = slot {
        slot = if key < node.key { &mut node.left } else { &mut node.right };
    }
    *slot = Some(Box::new(Node { key, left: None, right: None }));
}

fn contains(mut slot: &Option<Box<Node>>, key: u64) -> bool {
    while let Some(node) = slot {
        if node.key == key {
            return true;
        }
        slot = if key < node.key { &node.left } else { &node.right };
    }
    false
}

fn main() {
    let threads: Vec<_> = (0..2u64)
        .map(|part| {
            thread::spawn(move || {
                let mut root = None;
                let mut key = part + 7;
                for _ in 0..100_000 {
                    key = key.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    insert(&mut root, key >> 40);
                }
                (0..1_500_000u64).filter(|i| contains(&root, i * 55)).count()
            })
        })
        .collect();
    println!("{:?}", threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>());
}
