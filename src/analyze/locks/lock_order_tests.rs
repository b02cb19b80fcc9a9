use super::super::scenario::{FAIR, PLAIN, Plain, Step, attempt, give, lock, locks, read, record, take};
use super::super::structure::Structural;
use super::super::{Lock, Locks, Mode};
use super::*;

fn find(steps: &[(u32, Step)], locks: &Locks) -> Vec<Finding> {
    inversions(&record(steps), locks, &Plain).findings
}

fn nested(thread: u32, outer: (char, u32), inner: (char, u32)) -> [(u32, Step); 4] {
    [
        (thread, take(outer.0, outer.1)),
        (thread, take(inner.0, inner.1)),
        (thread, give(inner.0)),
        (thread, give(outer.0)),
    ]
}

fn spawn(parent: u32, child: u32) -> (u32, Step) {
    (parent, Step::Structural(Structural::Create { parent, child }))
}

fn join(joiner: u32, child: u32) -> (u32, Step) {
    (joiner, Step::Structural(Structural::Join { joiner, child }))
}

#[test]
fn two_locks_in_opposite_orders() {
    let steps = [nested(1, ('A', 1), ('B', 2)), nested(2, ('B', 3), ('A', 4))].concat();
    let found = find(&steps, &locks(2, PLAIN));
    assert_eq!(found.len(), 1);
    let finding = &found[0];
    assert_eq!((finding.kind, finding.confidence), (Kind::LockOrderInversion, Confidence::Confirmed));
    let roles: Vec<_> = finding
        .stacks
        .iter()
        .map(|s| {
            (
                s.role.as_str(),
                s.thread.as_ref().map_or(0, |t| t.serial),
                s.frames[0].line,
                s.lock.as_ref().map(|l| l.name.clone()).unwrap_or_default(),
            )
        })
        .collect();
    assert_eq!(
        roles,
        [
            ("held", 1, 1, "A".to_owned()),
            ("wanted", 1, 2, "B".to_owned()),
            ("held", 2, 3, "B".to_owned()),
            ("wanted", 2, 4, "A".to_owned()),
        ]
    );
    assert!(finding.title.contains("`A` and `B`"), "{}", finding.title);
    assert!(finding.fix.contains("everywhere"), "{}", finding.fix);
    assert_eq!(finding.stacks[1].locks_held[0].name, "A");
}

#[test]
fn the_same_cycle_by_many_threads_is_one_finding() {
    let mut steps = Vec::new();
    for thread in 1..20 {
        steps.extend(nested(thread, ('A', 1), ('B', 2)));
        steps.extend(nested(thread + 20, ('B', 3), ('A', 4)));
    }
    assert_eq!(find(&steps, &locks(2, PLAIN)).len(), 1);
}

#[test]
fn cycles_over_many_locks() {
    for count in [3u32, 5, 9, 16] {
        let steps: Vec<_> = (0..count)
            .flat_map(|i| {
                let letter = |n: u32| char::from(b'A' + (n % count) as u8);
                nested(i + 1, (letter(i), 2 * i), (letter(i + 1), 2 * i + 1))
            })
            .collect();
        let found = find(&steps, &locks(count, PLAIN));
        assert_eq!(found.len(), 1, "{count} locks");
        assert_eq!(found[0].stacks.len(), 2 * count as usize);
    }
}

#[test]
fn an_order_that_all_keep_is_silent() {
    let steps = [nested(1, ('A', 1), ('B', 2)), nested(2, ('A', 3), ('B', 4)), nested(3, ('B', 5), ('C', 6))].concat();
    assert!(find(&steps, &locks(3, PLAIN)).is_empty());
}

#[test]
fn one_thread_alone_is_silent() {
    let steps = [nested(1, ('A', 1), ('B', 2)), nested(1, ('B', 3), ('A', 4))].concat();
    assert!(find(&steps, &locks(2, PLAIN)).is_empty());
}

#[test]
fn a_cycle_of_three_edges_by_two_threads_is_silent() {
    let steps = [nested(1, ('A', 1), ('B', 2)), nested(1, ('B', 3), ('C', 4)), nested(2, ('C', 5), ('A', 6))].concat();
    assert!(find(&steps, &locks(3, PLAIN)).is_empty());
}

#[test]
fn try_lock_is_silent() {
    let mut steps = nested(1, ('A', 1), ('B', 2)).to_vec();
    steps.extend([(2, take('B', 3)), (2, attempt('A', 4)), (2, give('A')), (2, give('B'))]);
    assert!(find(&steps, &locks(2, PLAIN)).is_empty());
}

#[test]
fn a_lock_got_by_trying_can_still_be_held() {
    let mut steps = vec![(1, attempt('A', 1)), (1, take('B', 2)), (1, give('B')), (1, give('A'))];
    steps.extend(nested(2, ('B', 3), ('A', 4)));
    assert_eq!(find(&steps, &locks(2, PLAIN)).len(), 1);
}

#[test]
fn a_gate_lock_is_silent() {
    let gated = |thread: u32, outer, inner| {
        let mut steps = vec![(thread, take('G', 9))];
        steps.extend(nested(thread, outer, inner));
        steps.push((thread, give('G')));
        steps
    };
    let steps = [gated(1, ('A', 1), ('B', 2)), gated(2, ('B', 3), ('A', 4))].concat();
    assert!(find(&steps, &locks(8, PLAIN)).is_empty());
}

#[test]
fn a_gate_that_only_one_takes_guards_nothing() {
    let mut steps = vec![(1, take('G', 9))];
    steps.extend(nested(1, ('A', 1), ('B', 2)));
    steps.push((1, give('G')));
    steps.extend(nested(2, ('B', 3), ('A', 4)));
    assert_eq!(find(&steps, &locks(8, PLAIN)).len(), 1);
}

#[test]
fn a_gate_held_for_reading_by_both_guards_nothing() {
    let gated = |thread: u32, outer, inner| {
        let mut steps = vec![(thread, read('G', 9))];
        steps.extend(nested(thread, outer, inner));
        steps.push((thread, give('G')));
        steps
    };
    let steps = [gated(1, ('A', 1), ('B', 2)), gated(2, ('B', 3), ('A', 4))].concat();
    assert_eq!(find(&steps, &locks(8, FAIR)).len(), 1);
}

fn readers(thread: u32, outer: (char, u32), inner: (char, u32)) -> [(u32, Step); 4] {
    [
        (thread, read(outer.0, outer.1)),
        (thread, read(inner.0, inner.1)),
        (thread, give(inner.0)),
        (thread, give(outer.0)),
    ]
}

#[test]
fn readers_that_cannot_block_are_silent() {
    let steps = [readers(1, ('A', 1), ('B', 2)), readers(2, ('B', 3), ('A', 4))].concat();
    assert!(find(&steps, &locks(2, FAIR)).is_empty(), "nobody writes");
    let written = [&steps[..], &[(3, take('A', 5)), (3, give('A')), (4, take('B', 6)), (4, give('B'))]].concat();
    assert!(find(&written, &locks(2, PLAIN)).is_empty(), "readers pass waiting writers");
    let found = find(&written, &locks(2, FAIR));
    assert_eq!(found.len(), 1, "a writer comes between");
    assert_eq!(found[0].confidence, Confidence::Likely);
    assert_eq!(found[0].stacks.iter().filter(|s| s.role == "write-locked").count(), 2);
}

#[test]
fn a_writer_and_a_reader_in_opposite_orders() {
    let steps = [
        vec![(1, read('A', 1)), (1, take('B', 2)), (1, give('B')), (1, give('A'))],
        vec![(2, read('B', 3)), (2, take('A', 4)), (2, give('A')), (2, give('B'))],
    ]
    .concat();
    assert_eq!(find(&steps, &locks(2, FAIR)).len(), 1);
}

#[test]
fn a_recursive_read_needs_a_writer_that_may_come_between() {
    let reader = [(1, read('A', 1)), (1, read('A', 2)), (1, give('A')), (1, give('A'))];
    assert!(find(&reader, &locks(1, FAIR)).is_empty(), "no writer");
    let writer = [(2, take('A', 3)), (2, give('A'))];
    let both = [&reader[..], &writer[..]].concat();
    assert!(find(&both, &locks(1, PLAIN)).is_empty(), "readers pass waiting writers");
    let found = find(&both, &locks(1, FAIR));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].kind, Kind::LockOrderInversion);
    let ordered = [&reader[..], &[spawn(1, 2)], &writer[..]].concat();
    assert!(find(&ordered, &locks(1, FAIR)).is_empty(), "the writer starts after the reader is done");
    let own = [&reader[..], &[(1, take('A', 3)), (1, give('A'))]].concat();
    assert!(find(&own, &locks(1, FAIR)).is_empty(), "the writer is the reader");
}

#[test]
fn what_structure_orders_is_only_possible() {
    let mut steps = nested(0, ('A', 1), ('B', 2)).to_vec();
    steps.push(spawn(0, 1));
    steps.extend(nested(1, ('B', 3), ('A', 4)));
    let found = find(&steps, &locks(2, PLAIN));
    assert_eq!((found.len(), found[0].confidence), (1, Confidence::Possible));
    assert!(found[0].notes[0].contains("ordered"));
}

#[test]
fn joined_phases_are_only_possible() {
    let mut steps = vec![spawn(0, 1)];
    steps.extend(nested(1, ('A', 1), ('B', 2)));
    steps.extend([join(0, 1), spawn(0, 2)]);
    steps.extend(nested(2, ('B', 3), ('A', 4)));
    assert_eq!(find(&steps, &locks(2, PLAIN))[0].confidence, Confidence::Possible);
}

#[test]
fn one_unordered_occurrence_is_enough() {
    let mut steps = nested(0, ('A', 1), ('B', 2)).to_vec();
    steps.push(spawn(0, 1));
    steps.extend(nested(0, ('A', 1), ('B', 2)));
    steps.extend(nested(1, ('B', 3), ('A', 4)));
    let found = find(&steps, &locks(2, PLAIN));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].confidence, Confidence::Confirmed);
}

#[test]
fn a_lock_created_anew_at_the_same_address_is_another() {
    // The recorder gives the second lock an id of its own: no cycle over instances, none over classes of one.
    let steps = [nested(1, ('A', 1), ('B', 2)), nested(2, ('D', 3), ('C', 4))].concat();
    assert!(find(&steps, &locks(4, PLAIN)).is_empty());
}

#[test]
fn classes_close_a_cycle_that_instances_do_not() {
    // A1 -> B1 and B2 -> A2 where A1, A2 are of one class, and so B1, B2.
    let steps = [nested(1, ('A', 1), ('B', 2)), nested(2, ('D', 3), ('C', 4))].concat();
    let classes = [0, 1, 0, 1].map(|class| Lock { class, rules: PLAIN });
    let found = find(&steps, &Locks(classes.to_vec()));
    assert_eq!((found.len(), found[0].confidence), (1, Confidence::Possible));
}

#[test]
fn instances_within_a_class() {
    let same = Locks(vec![Lock { class: 0, rules: PLAIN }; 3]);
    let transfer = [nested(1, ('A', 1), ('B', 2)), nested(2, ('B', 1), ('A', 2))].concat();
    let found = find(&transfer, &same);
    assert_eq!((found.len(), found[0].confidence), (1, Confidence::Confirmed));
    let sorted = [nested(1, ('A', 1), ('B', 2)), nested(2, ('B', 1), ('C', 2)), nested(3, ('A', 1), ('C', 2))].concat();
    assert!(find(&sorted, &same).is_empty(), "all take them in one order");
}

#[test]
fn ten_thousand_accounts_in_one_order_are_silent_and_fast() {
    let count = 10_000u32;
    let mut orders = Orders::default();
    let hold = |lock, line| Hold { lock: LockId(lock), mode: Mode::Exclusive, place: super::super::Place(line) };
    let mut state = 1u64;
    for i in 0..60_000u32 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let a = (state >> 33) as u32 % count;
        let b = (state >> 17) as u32 % count;
        if a != b {
            let edge = Edge {
                thread: i % 8 + 1,
                held: hold(a.min(b), 1),
                wanted: hold(a.max(b), 2),
                by_try: false,
                others: Vec::new(),
                moment: Moment::default(),
                count: 1,
                doubt: None,
            };
            orders.edges.push(edge);
        }
    }
    let same = Locks(vec![Lock { class: 0, rules: PLAIN }; count as usize]);
    let found = inversions(&orders, &same, &Plain);
    assert!(found.findings.is_empty());
    assert_eq!(found.budget_exhausted, 0);
}

#[test]
fn a_dense_graph_ends() {
    let mut steps = Vec::new();
    for a in 0..20u8 {
        for b in 0..20u8 {
            if a != b {
                let letter = |n: u8| char::from(b'A' + n);
                let line = u32::from(a) * 40 + u32::from(b);
                steps.extend(nested(u32::from(a) + 1, (letter(a), line), (letter(b), line + 1000)));
            }
        }
    }
    assert!(!find(&steps, &locks(20, PLAIN)).is_empty());
    assert_eq!(lock('A').0, 0);
}
