//! What a method is called on, from the source text before its name: `self.accounts[from]` of `self.accounts[from].lock()`.

/// A field of a chain, with whether it is indexed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) indexed: bool,
}

/// A variable and the fields after it. The variable is empty where something else stands there, as a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Receiver {
    pub(super) variable: String,
    pub(super) fields: Vec<Field>,
}

impl Receiver {
    /// As source text, with what indices are left out; `..` for what is no variable.
    pub(super) fn text(&self) -> String {
        let mut text = if self.variable.is_empty() { "..".to_owned() } else { self.variable.clone() };
        for field in &self.fields {
            text.push('.');
            text.push_str(&field.name);
            if field.indexed {
                text.push_str("[..]");
            }
        }
        text
    }
}

/// Lines before the call that a chain may begin in.
const LINES: usize = 6;

/// What `method` is called on at a line and column, both from 1. `None` unless the method's name stands there after a dot, and a field before
/// that.
pub(super) fn receiver(lines: &[String], line: u32, column: u32, method: &str) -> Option<Receiver> {
    let line = (line as usize).checked_sub(1)?;
    let at = (column as usize).checked_sub(1)?;
    let rest = lines.get(line)?.get(at..)?.strip_prefix(method)?;
    if rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let mut text = String::new();
    for earlier in &lines[line.saturating_sub(LINES)..line] {
        // A comment's text is no code.
        text.push_str(earlier.split("//").next().unwrap_or_default());
        text.push('\n');
    }
    text.push_str(lines.get(line)?.get(..at)?);
    chain(text.trim_end().strip_suffix('.')?)
}

/// The chain of fields that a text ends with.
fn chain(text: &str) -> Option<Receiver> {
    let mut rest = text.trim_end();
    let mut fields = Vec::new();
    loop {
        let mut indexed = false;
        while rest.ends_with(']') {
            rest = before_opening(rest)?.trim_end();
            indexed = true;
        }
        let name_at = rest.len()
            - rest.chars().rev().take_while(|c| c.is_alphanumeric() || *c == '_').map(char::len_utf8).sum::<usize>();
        let (before, name) = rest.split_at(name_at);
        let before = before.trim_end();
        let is_field = before.ends_with('.') && !before.ends_with("..");
        if name.is_empty() || !is_field {
            let is_path = before.ends_with("::") || before.ends_with("..");
            let is_variable =
                !name.is_empty() && !is_path && !indexed && !name.starts_with(|c: char| c.is_ascii_digit());
            fields.reverse();
            let variable = if is_variable { name.to_owned() } else { String::new() };
            return (!fields.is_empty()).then_some(Receiver { variable, fields });
        }
        fields.push(Field { name: name.to_owned(), indexed });
        rest = before[..before.len() - 1].trim_end();
    }
}

/// What stands before the `[` that belongs to the `]` at the end.
fn before_opening(text: &str) -> Option<&str> {
    let mut depth = 0usize;
    for (at, byte) in text.bytes().enumerate().rev() {
        match byte {
            b']' => depth += 1,
            b'[' => {
                depth -= 1;
                if depth == 0 {
                    return Some(&text[..at]);
                }
            }
            b'"' | b'\'' => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `^` stands under the method's first letter, `#` for the line break.
    fn of(source: &str, method: &str) -> Option<String> {
        let lines: Vec<String> = source.split('#').map(str::to_owned).collect();
        let (line, column) =
            lines.iter().enumerate().find_map(|(n, l)| Some((n, l.find(&format!(".{method}("))? + 2)))?;
        receiver(&lines, line as u32 + 1, column as u32, method).map(|receiver| receiver.text())
    }

    #[test]
    fn fields_and_what_is_none() {
        for (source, method, expected) in [
            ("let a = self.audit.lock().unwrap();", "lock", Some("self.audit")),
            ("*bank.inner.accounts[from + to[1]].lock() += 1", "lock", Some("bank.inner.accounts[..]")),
            ("self.0.read()", "read", Some("self.0")),
            ("    self.bank # // with care # .audit # .lock()", "lock", Some("self.bank.audit")),
            ("self.bank().audit.lock()", "lock", Some("...audit")),
            ("ACCOUNTS.lock()", "lock", None),
            ("mutex.lock()", "lock", None),
            ("self.get().lock()", "lock", None),
            ("(self.a).lock()", "lock", None),
            ("self.tables[n].audit.lock()", "lock", Some("self.tables[..].audit")),
            ("crate::BANK.audit.lock()", "lock", Some("...audit")),
        ] {
            assert_eq!(of(source, method).as_deref(), expected, "{source}");
        }
        let lines = vec!["self.audit.lock_slow()".to_owned()];
        assert_eq!(receiver(&lines, 1, 12, "lock"), None, "another method");
        assert_eq!(receiver(&lines, 1, 400, "lock"), None);
        assert_eq!(receiver(&lines, 9, 1, "lock"), None);
    }
}
