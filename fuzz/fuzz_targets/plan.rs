//! An entry of the plan cache: the plan, what is known of its module, and the trailer.

#![no_main]

use conprof::launch::{PlanFile, Planned, read_entry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((plan, about)) = read_entry(data) {
        let plan = (!plan.is_empty()).then(|| PlanFile::made(plan.to_vec()));
        Planned { plan, about, cached: true }.sites();
    }
    // Without the trailer as well, which random bytes rarely have.
    Planned { plan: Some(PlanFile::made(data.to_vec())), about: Default::default(), cached: true }.sites();
});
