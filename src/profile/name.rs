//! Function names as a person reads them in a narrow frame.

use crate::report::Frame;

/// Generic arguments longer than this are left out.
const LONGEST_ARGUMENTS: usize = 28;

/// A frame's name in a folded stack: the function, short and without the separator; its address where it has no name.
pub fn frame_name(frame: &Frame) -> String {
    if frame.function.is_empty() || frame.function == "<unknown>" {
        let module = frame.module.rsplit('/').next().unwrap_or_default();
        return match module {
            "" => "[unknown]".to_owned(),
            module => format!("[{module}+{:#x}]", frame.module_offset),
        };
    }
    function_name(&frame.function)
}

/// A demangled name without hash, disambiguators and compiler suffixes; in generic arguments and in `<T as Trait>`
/// only the last segment of each path, and long arguments as `<..>`.
pub fn function_name(demangled: &str) -> String {
    let stripped = strip_suffixes(demangled);
    let mut shortener = Shortener { rest: stripped, failed: false };
    let short = shortener.path();
    let name = if shortener.failed || !shortener.rest.is_empty() { stripped.to_owned() } else { short };
    name.replace(';', ",")
}

/// Without `::h0123456789abcdef`, ` [clone ..]`, `.llvm.123`, `.cold`.
fn strip_suffixes(name: &str) -> &str {
    let mut name = name.trim();
    if let Some(at) = name.find(" [clone") {
        name = &name[..at];
    }
    if let Some(at) = name.find(".llvm.") {
        name = &name[..at];
    }
    name = name.strip_suffix(".cold").unwrap_or(name);
    match name.rfind("::h") {
        Some(at) if name.len() - at == 19 && name[at + 3..].bytes().all(|b| b.is_ascii_hexdigit()) => &name[..at],
        _ => name,
    }
}

struct Shortener<'a> {
    rest: &'a str,
    failed: bool,
}

impl Shortener<'_> {
    /// A function's path: all segments are kept.
    fn path(&mut self) -> String {
        let mut out = String::new();
        while let Some(c) = self.rest.chars().next() {
            match c {
                '<' if out.is_empty() => out.push_str(&self.qualified_self()),
                '<' => {
                    let arguments = self.arguments();
                    // `foo::<T>` reads as `foo<T>`.
                    let kept = out.trim_end_matches("::").len();
                    out.truncate(kept);
                    out.push_str(&arguments);
                }
                '{' => out.push_str(&self.braced()),
                '>' => {
                    self.failed = true;
                    break;
                }
                _ => {
                    out.push(c);
                    self.rest = &self.rest[c.len_utf8()..];
                }
            }
        }
        out
    }

    /// `{{closure}}`, `{closure#1}` and the like, without their numbers.
    fn braced(&mut self) -> String {
        let close = match self.rest.find('}') {
            Some(at) => at,
            None => {
                self.failed = true;
                self.rest = "";
                return String::new();
            }
        };
        let mut end = close + 1;
        while self.rest[end..].starts_with('}') {
            end += 1;
        }
        let inner = self.rest[..end].trim_matches(['{', '}']);
        let kind = inner.split('#').next().unwrap_or(inner).split(':').next().unwrap_or(inner);
        let out = format!("{{{kind}}}");
        self.rest = &self.rest[end..];
        out
    }

    /// The text between matching angle brackets; the rest moves behind them.
    fn bracketed(&mut self) -> String {
        let bytes = self.rest.as_bytes();
        let mut depth = 0usize;
        for (at, &b) in bytes.iter().enumerate() {
            match b {
                b'<' => depth += 1,
                b'>' if at > 0 && bytes[at - 1] == b'-' => {}
                b'>' => {
                    depth -= 1;
                    if depth == 0 {
                        let inner = self.rest[1..at].to_owned();
                        self.rest = &self.rest[at + 1..];
                        return inner;
                    }
                }
                _ => {}
            }
        }
        self.failed = true;
        self.rest = "";
        String::new()
    }

    /// `<T as Trait>` or `<impl Trait for T>` or `<T>`.
    fn qualified_self(&mut self) -> String {
        let inner = self.bracketed();
        if self.failed {
            return String::new();
        }
        format!("<{}>", short_type(&inner))
    }

    /// Generic arguments.
    fn arguments(&mut self) -> String {
        let inner = self.bracketed();
        if self.failed {
            return String::new();
        }
        let short = short_type(&inner);
        if short.chars().count() > LONGEST_ARGUMENTS { "<..>".to_owned() } else { format!("<{short}>") }
    }
}

/// A type with only the last segment of each path.
fn short_type(text: &str) -> String {
    let mut out = String::new();
    let mut shortener = Shortener { rest: text, failed: false };
    while let Some(c) = shortener.rest.chars().next() {
        if c.is_alphanumeric() || c == '_' {
            let end = shortener.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(shortener.rest.len());
            let (word, rest) = shortener.rest.split_at(end);
            let qualifies =
                rest.strip_prefix("::").is_some_and(|r| r.starts_with(|c: char| c.is_alphabetic() || c == '_'));
            if qualifies {
                shortener.rest = &rest[2..];
            } else {
                out.push_str(word);
                shortener.rest = rest;
            }
        } else if c == '{' {
            out.push_str(&shortener.braced());
        } else if c == '<' {
            let inside = if out.is_empty() || out.ends_with([' ', '(', '&', ',']) {
                shortener.qualified_self()
            } else {
                shortener.arguments()
            };
            let kept = out.trim_end_matches("::").len();
            out.truncate(kept);
            out.push_str(&inside);
        } else {
            out.push(c);
            shortener.rest = &shortener.rest[c.len_utf8()..];
        }
        if shortener.failed {
            return text.to_owned();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_as_rust() {
        for (long, short) in [
            ("app::work::h0123456789abcdef", "app::work"),
            ("std::thread::local::LocalKey<T>::with", "std::thread::local::LocalKey<T>::with"),
            ("<alloc::vec::Vec<T> as core::ops::drop::Drop>::drop", "<Vec<T> as Drop>::drop"),
            (
                "core::ptr::drop_in_place::<alloc::vec::Vec<std::thread::JoinHandle<()>>>",
                "core::ptr::drop_in_place<Vec<JoinHandle<()>>>",
            ),
            ("app::main::{closure#2}::{closure#0}", "app::main::{closure}::{closure}"),
            ("app::main::{{closure}}", "app::main::{closure}"),
            (
                "std::sys::backtrace::__rust_begin_short_backtrace::<app::main::{closure#0}, alloc::collections::btree_map::BTreeMap<u8, u8>>",
                "std::sys::backtrace::__rust_begin_short_backtrace<..>",
            ),
            ("<F as core::ops::function::FnOnce<()>>::call_once", "<F as FnOnce<()>>::call_once"),
            ("call::<fn(a::B) -> c::D>", "call<fn(B) -> D>"),
            ("foo.llvm.12345", "foo"),
            ("foo.cold", "foo"),
            ("a::b<c", "a::b<c"),
            ("operator>>", "operator>>"),
            ("a;b", "a,b"),
        ] {
            assert_eq!(function_name(long), short, "{long}");
        }
    }

    #[test]
    fn any_text_gives_a_name() {
        for text in ["", "<", ">", "{", "}", "<<>", "a<b>>c", "é::ü<ß>", "{{{", "<a as>::", "->", "a<->>"] {
            let _ = function_name(text);
        }
    }

    #[test]
    fn a_nameless_frame_shows_its_module() {
        let frame = Frame { module: "/usr/lib/libc.so.6".into(), module_offset: 0x1234, ..Frame::default() };
        assert_eq!(frame_name(&frame), "[libc.so.6+0x1234]");
        assert_eq!(frame_name(&Frame::default()), "[unknown]");
    }
}
