//! conprof's own words: on stderr, in a file, or nowhere; never on stdout.

use super::options::Color;
use crate::report::text::Style;
use std::cell::RefCell;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;

/// Where the words go.
#[derive(Debug)]
pub(super) struct Words {
    sink: Sink,
    /// How the report's text is made.
    pub(super) style: Style,
    /// `-v` was given.
    pub(super) verbose: bool,
}

#[derive(Debug)]
enum Sink {
    Stderr,
    File(RefCell<File>),
    Nowhere,
}

impl Words {
    /// Words as the options ask for.
    pub(super) fn new(log: Option<&Path>, quiet: bool, verbose: bool) -> anyhow::Result<Words> {
        use anyhow::Context;
        let sink = match (quiet, log) {
            (true, None) => Sink::Nowhere,
            (_, Some(path)) => {
                let file = File::create(path).with_context(|| format!("`{}` can't be written", path.display()))?;
                Sink::File(RefCell::new(file))
            }
            (false, None) => Sink::Stderr,
        };
        let color = matches!(sink, Sink::Stderr)
            && std::io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Ok(Words { sink, style: Style { color, everything: verbose }, verbose })
    }

    /// The same words with colours as asked for.
    pub(super) fn with_color(mut self, color: Color) -> Words {
        self.style.color = match color {
            Color::Auto => self.style.color,
            Color::Always => true,
            Color::Never => false,
        };
        self
    }

    /// Says something that ends in a line break. A reader who is gone is no reason to stop.
    pub(super) fn say(&self, text: &str) {
        let _ = match &self.sink {
            // One write, so that the program's own lines do not come between.
            Sink::Stderr => std::io::stderr().lock().write_all(text.as_bytes()),
            Sink::File(file) => file.borrow_mut().write_all(text.as_bytes()),
            Sink::Nowhere => Ok(()),
        };
    }

    /// Says a line with `-v`.
    pub(super) fn detail(&self, line: &str) {
        if self.verbose {
            self.say(&format!("conprof: {line}\n"));
        }
    }

    /// Whether a progress bar may be drawn.
    pub(super) fn may_draw(&self) -> bool {
        matches!(self.sink, Sink::Stderr) && std::io::stderr().is_terminal()
    }
}
