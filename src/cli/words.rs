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
}

#[derive(Debug)]
enum Sink {
    Stderr,
    File(RefCell<File>),
    Nowhere,
}

impl Sink {
    /// Lets events of `tracing` be written here: `-v` shows what was done, `-vv` the details.
    fn take_diagnostics(&self, verbosity: u8, color: bool) -> anyhow::Result<()> {
        use tracing_subscriber::fmt::writer::BoxMakeWriter;
        let writer = match self {
            Sink::Stderr => BoxMakeWriter::new(std::io::stderr),
            Sink::File(file) => BoxMakeWriter::new(std::sync::Mutex::new(file.borrow().try_clone()?)),
            Sink::Nowhere => return Ok(()),
        };
        let level = if verbosity == 1 { tracing::Level::INFO } else { tracing::Level::TRACE };
        let subscriber = tracing_subscriber::fmt().with_max_level(level).with_writer(writer).with_ansi(color);
        // A second one, where a process makes several reports, changes nothing.
        let _ = subscriber.with_target(false).without_time().try_init();
        Ok(())
    }
}

impl Words {
    /// Words as the options ask for. With `-v` (1) and `-vv` (2) the diagnostics of all parts go to the same place.
    pub(super) fn new(log: Option<&Path>, quiet: bool, verbosity: u8) -> anyhow::Result<Words> {
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
        if verbosity > 0 {
            sink.take_diagnostics(verbosity, color)?;
        }
        Ok(Words { sink, style: Style { color, everything: verbosity > 0 } })
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

    /// Whether a progress bar may be drawn.
    pub(super) fn may_draw(&self) -> bool {
        matches!(self.sink, Sink::Stderr) && std::io::stderr().is_terminal()
    }
}
