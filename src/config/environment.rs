//! `CONPROF_OPTIONS`: `key=value` pairs separated by `:`, blanks, commas or lines, as in `TSAN_OPTIONS`.
//!
//! A value in single or double quotes may hold separators. A value that holds a comma between words without a `=`
//! after it is taken as a list (`fail_on=data-race,deadlock`).

/// Splits the text into pairs; a part without `=` is a pair with an empty value.
pub fn pairs(text: &str) -> Vec<(String, Option<String>)> {
    let mut pairs: Vec<(String, Option<String>)> = Vec::new();
    let mut rest = text.trim_start_matches(is_separator);
    while !rest.is_empty() {
        let key_end = rest.find(|c| c == '=' || is_separator(c)).unwrap_or(rest.len());
        let key = &rest[..key_end];
        let Some(after) = rest[key_end..].strip_prefix('=') else {
            let continues_list = text_before(text, rest).ends_with(',');
            match pairs.last_mut() {
                Some((_, Some(value))) if continues_list => {
                    value.push(',');
                    value.push_str(key);
                }
                _ => pairs.push((key.to_owned(), None)),
            }
            rest = rest[key_end..].trim_start_matches(is_separator);
            continue;
        };
        let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''));
        let (value, tail) = match quote {
            Some(quote) => after[1..].split_once(quote).unwrap_or((&after[1..], "")),
            None => after.split_at(after.find(is_separator).unwrap_or(after.len())),
        };
        pairs.push((key.to_owned(), Some(value.to_owned())));
        rest = tail.trim_start_matches(is_separator);
    }
    pairs
}

fn text_before<'a>(text: &'a str, rest: &str) -> &'a str {
    &text[..text.len() - rest.len()]
}

fn is_separator(c: char) -> bool {
    matches!(c, ':' | ',') || c.is_whitespace()
}

#[cfg(test)]
mod tests {
    use super::pairs;

    #[test]
    fn pairs_are_split_as_sanitizers_do() {
        let pair = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
        assert_eq!(pairs("halt_on_error=1:exitcode=3"), [pair("halt_on_error", "1"), pair("exitcode", "3")]);
        assert_eq!(pairs("  a=1 b=2\n,c=3"), [pair("a", "1"), pair("b", "2"), pair("c", "3")]);
        assert_eq!(pairs("log_path='/a b:c':x=\"1,2\""), [pair("log_path", "/a b:c"), pair("x", "1,2")]);
        assert_eq!(
            pairs("fail_on=data-race,deadlock:quiet=1"),
            [pair("fail_on", "data-race,deadlock"), pair("quiet", "1")]
        );
        assert_eq!(pairs("verbose quiet=1"), [("verbose".to_owned(), None), pair("quiet", "1")]);
        assert_eq!(pairs(""), []);
        assert_eq!(pairs("a="), [pair("a", "")]);
    }
}
