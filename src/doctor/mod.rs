//! `conprof doctor`: what on this machine helps or hinders, and the cure. Reads only, changes nothing.
//!
//! Each check is a function of the text that the system shows, so that it can be tested for machines that are not here.

mod program;
mod system;

pub use program::check_program;
pub use system::check_system;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// As it should be.
    Good,
    /// Something works less well.
    Limited,
    /// conprof can't do its work.
    Bad,
}

/// A check and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// What was seen.
    pub seen: String,
    /// What the user can do; empty where nothing is to be done.
    pub cure: String,
}

impl Check {
    fn good(name: &'static str, seen: impl Into<String>) -> Check {
        Check { name, state: State::Good, seen: seen.into(), cure: String::new() }
    }

    fn limited(name: &'static str, seen: impl Into<String>, cure: impl Into<String>) -> Check {
        Check { name, state: State::Limited, seen: seen.into(), cure: cure.into() }
    }

    fn bad(name: &'static str, seen: impl Into<String>, cure: impl Into<String>) -> Check {
        Check { name, state: State::Bad, seen: seen.into(), cure: cure.into() }
    }
}

/// The checks as lines of text.
pub fn render(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let mark = match check.state {
            State::Good => "ok     ",
            State::Limited => "limited",
            State::Bad => "BAD    ",
        };
        text.push_str(&format!("{mark}  {}: {}\n", check.name, check.seen));
        if !check.cure.is_empty() {
            text.push_str(&format!("           cure: {}\n", check.cure));
        }
    }
    text
}
