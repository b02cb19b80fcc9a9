//! Reports into files and onto the screen, after suppressions, baseline and gating.

use super::exit;
use super::options::Format;
use super::words::Words;
use crate::baseline::Baseline;
use crate::gate::{self, FailOn};
use crate::launch::{OutDir, Refusal};
use crate::report::text::{self, Style};
use crate::report::{Report, github, html, json, junit, sarif, tsan};
use crate::suppress::Suppressions;
use anyhow::Context as _;
use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Pictures of a folder of results, in the order of the page.
const PICTURES: [(&str, &str); 5] = [
    ("contention", "Lock waiting, by waiting stack"),
    ("blame", "The same time, by the stack that held the lock"),
    ("idle", "Waiting for lack of work"),
    ("offcpu", "Off the CPU"),
    ("cpu", "On the CPU"),
];

/// What decides about findings after they are found.
#[derive(Debug, Default)]
pub(super) struct Acceptance {
    suppressions: Suppressions,
    baseline: Option<Baseline>,
    fail_on: FailOn,
}

impl Acceptance {
    /// Reads the files that the options name.
    pub(super) fn read(
        (suppressions, lines): (&[PathBuf], &[String]),
        baseline: Option<&Path>,
        fail_on: FailOn,
        words: &Words,
    ) -> anyhow::Result<Acceptance> {
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|error| Refusal::new(exit::USAGE, format!("`{}` can't be read: {error}", path.display()), ""))
        };
        let mut all = Suppressions::default();
        for path in suppressions {
            for problem in all.add_text(&read(path)?, &path.display().to_string()) {
                words.say(&format!("conprof: {problem}\n"));
            }
        }
        for problem in all.add_text(&lines.join("\n"), "--suppress") {
            words.say(&format!("conprof: {problem}\n"));
        }
        let baseline = match baseline {
            Some(path) => Some(Baseline::parse(&read(path)?).map_err(|why| {
                Refusal::new(
                    exit::USAGE,
                    format!("`{}` is no baseline: {why}", path.display()),
                    "give a file that `conprof baseline` wrote, or an earlier report.json",
                )
            })?),
            None => None,
        };
        Ok(Acceptance { suppressions: all, baseline, fail_on })
    }

    /// Nothing is accepted; these kinds gate.
    pub(super) fn for_kinds(fail_on: FailOn) -> Acceptance {
        Acceptance { fail_on, ..Acceptance::default() }
    }

    /// Marks the findings and sets the verdict.
    pub(super) fn apply(&self, report: &mut Report) {
        self.suppressions.apply(report);
        if let Some(baseline) = &self.baseline {
            baseline.apply(report);
        }
        gate::decide(report, &self.fail_on);
    }
}

/// A format's text and the name of its file. `results` is the folder that commands in it name.
fn render(report: &Report, format: Format, results: &str) -> (&'static str, String) {
    match format {
        Format::Text => ("report.txt", plain(report)),
        Format::Tsan => ("report.tsan", tsan::render(report)),
        Format::Json => ("report.json", json::render(report)),
        Format::Sarif => ("report.sarif", sarif::render(report)),
        Format::Junit => ("report.xml", junit::render(report)),
        Format::Github => ("report.github", github::render(report)),
        Format::Html => ("report.html", html::render(report, &pictures(Path::new(results)), results)),
    }
}

/// The pictures that a folder of results holds.
fn pictures(results: &Path) -> Vec<html::Picture> {
    let read = |(stem, title): &(&str, &str)| {
        let svg = std::fs::read_to_string(results.join(format!("{stem}.svg"))).ok()?;
        Some(html::Picture { title: (*title).to_owned(), svg })
    };
    PICTURES.iter().filter_map(read).collect()
}

fn plain(report: &Report) -> String {
    let style = Style::default();
    text::degraded(report, style) + &text::findings(report, style) + &text::summary(report, "", style)
}

/// Writes report.json, report.html where the page is wanted, and the files of the other formats that were asked for.
pub(super) fn write(out: &OutDir, report: &Report, formats: &[Format], page: bool) -> anyhow::Result<()> {
    let page = page || formats.contains(&Format::Html);
    let others = formats.iter().filter(|format| !matches!(format, Format::Text | Format::Json | Format::Html));
    for format in std::iter::once(&Format::Json).chain(page.then_some(&Format::Html)).chain(others) {
        let (name, text) = render(report, *format, &out.path().display().to_string());
        tracing::debug!("{}: {} bytes", out.file(name).display(), text.len());
        out.write(name, text.as_bytes()).with_context(|| format!("`{}` can't be written", out.file(name).display()))?;
    }
    Ok(())
}

/// What stderr shows of the findings. Those that were `told` in full before are not told again.
pub(super) fn findings_text(report: &Report, formats: &[Format], told: &HashSet<String>, style: Style) -> String {
    let mut shown = String::new();
    if formats.contains(&Format::Tsan) {
        shown += &(tsan::render(report) + &tsan::render_matched_suppressions(report));
    }
    if formats.contains(&Format::Github) {
        shown += &github::render(report);
    }
    if shown.is_empty() || formats.contains(&Format::Text) {
        shown += &text::findings_after(report, told, style);
    }
    shown
}

/// Appends to the summary of a step of GitHub Actions, where one is running.
pub(super) fn add_step_summary(report: &Report) {
    let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) else { return };
    let used = std::fs::metadata(&path).map_or(0, |meta| usize::try_from(meta.len()).unwrap_or(usize::MAX));
    let text = github::render_summary(report, github::MAX_SUMMARY_BYTES.saturating_sub(used));
    let append = || std::fs::File::options().create(true).append(true).open(&path)?.write_all(text.as_bytes());
    if let Err(error) = append() {
        eprintln!("conprof: {} can't be written: {error}", Path::new(&path).display());
    }
}

/// Writes to stdout, for subcommands whose output is their purpose.
pub(super) fn print(text: &str) -> anyhow::Result<i32> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // A reader who has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        result => result.map(|()| 0).map_err(Into::into),
    }
}

/// A whole report as text in a format.
pub(super) fn whole(report: &Report, format: Format, results: &str, style: Style) -> String {
    match format {
        Format::Text => {
            text::degraded(report, style) + &text::findings(report, style) + &text::summary(report, "", style)
        }
        other => render(report, other, results).1,
    }
}
