//! Why a program is not started.

use std::fmt;

/// A refusal with its cure; it ends conprof with `status` before the program starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Exit status.
    pub status: i32,
    /// What is wrong, as a clause without a full stop.
    pub reason: String,
    /// What to do about it: a sentence or a command; empty where there is nothing to say.
    pub cure: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(status: i32, reason: impl Into<String>, cure: impl Into<String>) -> Refusal {
        Refusal { status, reason: reason.into(), cure: cure.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        if !self.cure.is_empty() {
            write!(f, "\n  help: {}", self.cure)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}
