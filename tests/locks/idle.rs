//! Programs that wait for the outside, for a minute: nothing is reported, and nothing is ended.

use super::{Fixture, Run, build, fixtures};
use libtest_mimic::Failed;
use std::time::Duration;

const MINUTE: &str = "60";

/// All of them at once, since they do nothing. The test takes this minute, next to others.
pub fn for_a_minute() -> Result<(), Failed> {
    build("dev")?;
    let idle: Vec<Fixture> =
        fixtures().into_iter().filter(|fixture| fixture.source.contains("deadlock::idle_time")).collect();
    let options = ["--fail-on", "all", "--hang-after", "3s"];
    let runs: Result<Vec<Run<'_>>, String> =
        idle.iter().map(|fixture| Run::start(fixture, "dev", "debug", &options, &[MINUTE])).collect();
    let mut failed = Vec::new();
    for run in runs? {
        let name = run.fixture.name.clone();
        if let Err(why) = run.end(Duration::from_secs(200)) {
            failed.push(format!("{name}: {}", why.message().unwrap_or_default()));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n").into()) }
}
