//! ThreadSanitizer's patterns: `*` stands for any text and is implied at both ends, `^` and `$` anchor.

/// A pattern, ready to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<String>,
    at_start: bool,
    at_end: bool,
}

impl Pattern {
    /// Reads a pattern. Every text is one.
    pub fn new(text: &str) -> Pattern {
        let (at_start, text) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
        let (at_end, text) = text.strip_suffix('$').map_or((false, text), |rest| (true, rest));
        Pattern { parts: text.split('*').map(str::to_owned).collect(), at_start, at_end }
    }

    /// Whether the pattern matches `text`. An empty text matches nothing: a frame without a file is no match for `*`.
    pub fn matches(&self, text: &str) -> bool {
        if text.is_empty() {
            return false;
        }
        let last = self.parts.len() - 1;
        let mut rest = text;
        for (number, part) in self.parts.iter().enumerate() {
            let pinned_start = number == 0 && self.at_start;
            let pinned_end = number == last && self.at_end;
            let found = match (pinned_start, pinned_end) {
                (true, true) => return rest == part,
                (true, false) => rest.starts_with(part.as_str()).then_some(0),
                (false, true) => return rest.ends_with(part.as_str()),
                (false, false) => rest.find(part.as_str()),
            };
            let Some(position) = found else { return false };
            rest = &rest[position + part.len()..];
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn stars_are_implied_at_both_ends() {
        for (pattern, text, expected) in [
            ("foo", "my::foo::bar", true),
            ("foo", "my::fo", false),
            ("^foo", "my::foo", false),
            ("^my", "my::foo", true),
            ("foo$", "my::foo", true),
            ("foo$", "my::foo::bar", false),
            ("^my::*::bar$", "my::foo::bar", true),
            ("^my::*::bar$", "my::foo::bar::baz", false),
            ("a*b*c", "xxaxxbxxcxx", true),
            ("a*b*c", "cba", false),
            ("^my::foo$", "my::foo", true),
            ("^my::foo$", "my::foo2", false),
            ("*", "anything", true),
            ("*", "", false),
            ("ab*b$", "ab", false),
            ("ab*ab$", "abxab", true),
            ("{closure#0}", "app::main::{closure#0}", true),
            ("é*ü", "xéyüz", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), expected, "{pattern} on {text}");
        }
    }
}
