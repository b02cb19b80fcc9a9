//! The fast detector against the reference on random lists of actions: it reports nothing that the reference does
//! not, names both sides rightly, and finds nearly every racy byte.

mod world;

use conprof_detect::Kind;
use world::{Random, World};

/// What a random run does.
#[derive(Clone, Copy)]
struct Shape {
    threads: u32,
    steps: u32,
    /// Granules of plain memory.
    granules: usize,
    /// Of 100 steps, how many synchronise.
    sync: u64,
    /// Sizes up to which accesses go.
    max_size: usize,
    /// Accesses are aligned to their size.
    aligned: bool,
    /// Of 1000 steps, how many change the owner of memory.
    reuse: u64,
    /// Atomics lie between the plain data.
    mixed: bool,
}

struct Score {
    racy: usize,
    found: usize,
    racy_granules: usize,
    found_granules: usize,
    told: usize,
    inexact: usize,
    lost: usize,
}

fn run(seed: u64, shape: Shape) -> Score {
    let mut random = Random::new(seed);
    let mut world = World::new(shape.granules * 8 + 4096);
    world.start_main();
    let data = world.base();
    let locks = data + shape.granules * 8;
    for _ in 1..shape.threads {
        let live = world.live();
        world.create(live[random.below(live.len())]);
    }
    let steps = if cfg!(miri) { shape.steps / 8 } else { shape.steps };
    for _ in 0..steps {
        let live = world.live();
        let thread = live[random.below(live.len())];
        if random.below(1000) < shape.reuse as usize {
            let start = data + 8 * random.below(shape.granules);
            let len = 8 * (1 + random.below(4));
            if random.below(2) == 0 {
                world.clean(start, len)
            } else {
                world.free(thread, start, len)
            }
            continue;
        }
        if random.below(400) == 0 && live.len() > 1 {
            let child = live[random.below(live.len())];
            if child != thread && child != 0 {
                world.join(thread, child);
                world.create(thread);
                continue;
            }
        }
        if (random.below(100) as u64) < shape.sync {
            let address = if shape.mixed && random.below(2) == 0 {
                data + 8 * random.below(shape.granules) + 4 * random.below(2)
            } else {
                locks + 16 * random.below(6)
            };
            match random.below(4) {
                0 => world.atomic_load(thread, address, 4),
                1 => world.atomic_store(thread, address, 4),
                2 => world.atomic_rmw(thread, address, 4),
                _ => world.key_hand_over(thread, locks + 256 + 8 * random.below(4), random.below(2) == 0),
            }
            continue;
        }
        let size = if shape.aligned {
            1 << random.below(1 + shape.max_size.ilog2() as usize)
        } else {
            1 + random.below(shape.max_size)
        };
        let room = shape.granules * 8 - size + 1;
        let offset = if shape.aligned { random.below(room) / size * size } else { random.below(room) };
        let kind = [Kind::Read, Kind::Read, Kind::Write, Kind::Update][random.below(4)];
        world.access(thread, data + offset, size, kind);
    }
    let (racy_granules, found_granules) = world.racy_granules();
    let score = Score {
        racy_granules,
        found_granules,
        racy: world.racy_bytes(),
        found: world.racy_bytes_found(),
        told: world.told(),
        inexact: world.inexact(),
        lost: world.lost(),
    };
    world.verify(seed);
    score
}

fn run_many(name: &str, shape: Shape, seeds: u64, least_percent: usize) {
    let mut sum = Score { racy: 0, found: 0, racy_granules: 0, found_granules: 0, told: 0, inexact: 0, lost: 0 };
    // Miri looks at what is done with memory, for which one short run of each shape does.
    let seeds = if cfg!(miri) { 1 } else { seeds };
    for seed in 0..seeds {
        let score = run(seed * 7919 + 1, shape);
        sum.racy += score.racy;
        sum.found += score.found;
        sum.racy_granules += score.racy_granules;
        sum.found_granules += score.found_granules;
        sum.told += score.told;
        sum.inexact += score.inexact;
        sum.lost += score.lost;
    }
    let share = |found: usize, of: usize| 100.0 * found as f64 / of.max(1) as f64;
    println!(
        "{name}: {} racy granules, {:.2} % found; {} racy bytes, {:.2} % found; {} races told, {} with a neighbour's id, {} without id",
        sum.racy_granules,
        share(sum.found_granules, sum.racy_granules),
        sum.racy,
        share(sum.found, sum.racy),
        sum.told,
        sum.inexact,
        sum.lost
    );
    if cfg!(miri) {
        return;
    }
    assert!(sum.racy > 50, "{name}: the runs must race");
    assert!(share(sum.found_granules, sum.racy_granules) >= least_percent as f64, "{name}: too few granules found");
}

const BASE: Shape =
    Shape { threads: 4, steps: 400, granules: 24, sync: 30, max_size: 8, aligned: true, reuse: 0, mixed: false };

#[test]
fn words_under_little_order() {
    run_many("words", BASE, 100, 95);
}

#[test]
fn well_ordered_threads_race_rarely() {
    run_many("mostly ordered", Shape { sync: 75, steps: 800, ..BASE }, 100, 93);
}

#[test]
fn unaligned_and_wide() {
    run_many("unaligned", Shape { aligned: false, max_size: 16, ..BASE }, 100, 95);
}

#[test]
fn atomics_between_plain_data() {
    run_many("mixed", Shape { mixed: true, ..BASE }, 100, 90);
}

#[test]
fn memory_that_changes_its_owner() {
    run_many("reuse", Shape { reuse: 50, mixed: true, aligned: false, max_size: 16, ..BASE }, 100, 85);
}

#[test]
fn many_threads_and_few_cells() {
    run_many("crowd", Shape { threads: 24, granules: 6, steps: 600, ..BASE }, 60, 90);
}

#[test]
fn whole_words_only() {
    run_many("eight bytes", Shape { max_size: 8, granules: 8, steps: 300, sync: 50, ..BASE }, 100, 93);
}

#[test]
fn few_accesses_each_counts() {
    run_many("sparse", Shape { steps: 40, granules: 16, ..BASE }, 600, 95);
}

#[test]
fn a_slot_is_reused_without_inventing() {
    // More threads than fresh slots, ended without a join: later ones share slots with earlier ones.
    let mut random = Random::new(77);
    let mut world = World::with_clocks(4096, if cfg!(miri) { 1 << 20 } else { 64 << 20 });
    world.start_main();
    let data = world.base();
    let rounds = if cfg!(miri) { 8 } else { 1300 };
    for round in 0..rounds {
        let child = if round % 50 == 49 { world.adopt() } else { world.create(0) };
        for _ in 0..3 {
            let live = world.live();
            let thread = live[random.below(live.len())];
            match random.below(5) {
                0 => world.atomic_store(thread, data + 1024 + 8 * random.below(3), 8),
                1 => world.atomic_load(thread, data + 1024 + 8 * random.below(3), 8),
                2 => world.access(child, data + 8 * random.below(40), 8, Kind::Write),
                _ => world.access(thread, data + 8 * random.below(40), 8, Kind::Read),
            }
        }
        let live = world.live();
        if live.len() > 6 {
            world.end_detached(live[1 + random.below(live.len() - 1)]);
        }
    }
    assert!(world.told() > 20 || cfg!(miri));
    world.verify(77);
}
