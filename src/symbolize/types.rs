//! Types of debuginfo, and the variables of the functions around an address.
//!
//! A unit is read when something in it is asked for; everything is known by its offset in `.debug_info`, since an inlined
//! function's variables may lie in another unit than its code. Builds with line tables only have none of this.
//!
//! Direction of error: what is damaged, or of a form that is not known, is not there.

use super::image::Slice;
use gimli::constants as dw;
use gimli::{AttributeValue, DebuggingInformationEntry, UnitHeader, UnitRef};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Offset of an entry in `.debug_info`.
pub(super) type At = usize;

/// Types inside one another that are followed.
const DEEPEST: usize = 16;

/// A member of a structure or union.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Name; `__0` in a tuple.
    pub(super) name: &'static str,
    /// Its type.
    pub(super) of: At,
    /// Offset in bytes.
    pub(super) offset: u64,
}

/// A type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// A pointer, reference or thin `Box`.
    Pointer { name: &'static str, to: Option<At> },
    /// A structure or union with its generic arguments, by parameter.
    Structure { path: String, bytes: u64, members: Vec<Member>, arguments: Vec<(&'static str, At)> },
    /// An array.
    Array { of: Option<At>, bytes_of_all: u64 },
    /// Anything else.
    Other { name: &'static str, bytes: u64 },
}

/// A function with code, inlined or not, or one that is inlined elsewhere.
#[derive(Debug, Default)]
struct Function {
    ranges: Vec<(u64, u64)>,
    parent: Option<usize>,
    depth: isize,
    origin: Option<At>,
    variables: Vec<(&'static str, At)>,
}

#[derive(Debug, Default)]
struct Unit {
    types: HashMap<At, Type>,
    functions: Vec<Function>,
    by_offset: HashMap<At, usize>,
}

/// The types of a module.
pub(super) struct Types {
    headers: Vec<UnitHeader<Slice>>,
    units: RefCell<HashMap<usize, Rc<Unit>>>,
}

/// What a scope of debuginfo is.
enum Scope {
    Named(&'static str),
    Type(At),
    Function(usize),
    Other,
}

impl Types {
    pub(super) fn new(dwarf: &gimli::Dwarf<Slice>) -> Types {
        let mut headers = Vec::new();
        let mut units = dwarf.units();
        while let Ok(Some(header)) = units.next() {
            headers.push(header);
        }
        Types { headers, units: RefCell::default() }
    }

    /// The unit that holds an offset.
    fn unit(&self, dwarf: &gimli::Dwarf<Slice>, at: At) -> Option<Rc<Unit>> {
        let start = |header: &UnitHeader<Slice>| header.debug_info_offset().map_or(usize::MAX, |offset| offset.0);
        let index = self.headers.partition_point(|header| start(header) <= at).checked_sub(1)?;
        if let Some(unit) = self.units.borrow().get(&index) {
            return Some(Rc::clone(unit));
        }
        let mut read = Unit::default();
        if let Ok(unit) = dwarf.unit(self.headers[index]) {
            let unit = unit.unit_ref(dwarf);
            let _ = read_unit(&unit, &mut read);
        }
        let read = Rc::new(read);
        self.units.borrow_mut().insert(index, Rc::clone(&read));
        Some(read)
    }

    /// The type at an offset.
    pub(super) fn get(&self, dwarf: &gimli::Dwarf<Slice>, at: At) -> Option<Type> {
        self.unit(dwarf, at)?.types.get(&at).cloned()
    }

    /// The type's name with its path, as other types' generic arguments show it.
    pub(super) fn name(&self, dwarf: &gimli::Dwarf<Slice>, at: At) -> String {
        match self.get(dwarf, at) {
            Some(Type::Structure { path, .. }) => path,
            Some(Type::Pointer { name, .. } | Type::Other { name, .. }) => name.to_owned(),
            Some(Type::Array { of: Some(of), .. }) => format!("[{}]", self.name_of_element(dwarf, of)),
            Some(Type::Array { of: None, .. }) | None => String::new(),
        }
    }

    /// Arrays of arrays are named to their second level: damaged debuginfo may hold circles.
    fn name_of_element(&self, dwarf: &gimli::Dwarf<Slice>, at: At) -> String {
        match self.get(dwarf, at) {
            Some(Type::Array { .. }) | None => "..".to_owned(),
            Some(Type::Structure { path, .. }) => path,
            Some(Type::Pointer { name, .. } | Type::Other { name, .. }) => name.to_owned(),
        }
    }

    /// Bytes that a value of the type takes; 0 where unknown.
    pub(super) fn bytes(&self, dwarf: &gimli::Dwarf<Slice>, at: At) -> u64 {
        match self.get(dwarf, at) {
            Some(Type::Structure { bytes, .. } | Type::Other { bytes, .. }) => bytes,
            Some(Type::Array { bytes_of_all, .. }) => bytes_of_all,
            Some(Type::Pointer { .. }) => 8,
            None => 0,
        }
    }

    /// Type of the variable or parameter `name` in a function around `pc`: the innermost is number 0, those that it is inlined into
    /// follow. `unit` is an offset in the code's unit. `None` also where variables of that name differ in type.
    pub(super) fn variable(
        &self,
        dwarf: &gimli::Dwarf<Slice>,
        unit: At,
        pc: u64,
        number: usize,
        name: &str,
    ) -> Option<At> {
        let unit = self.unit(dwarf, unit)?;
        let covers = |function: &&Function| function.ranges.iter().any(|range| (range.0..range.1).contains(&pc));
        let mut function = unit.functions.iter().filter(covers).max_by_key(|function| function.depth)?;
        for _ in 0..number {
            function = unit.functions.get(function.parent?)?;
        }
        let mut types: Vec<At> = of_name(&function.variables, name).collect();
        let mut origin = function.origin;
        // A declaration may stand behind the function that is inlined.
        for _ in 0..3 {
            let Some(at) = origin else { break };
            let home = self.unit(dwarf, at)?;
            let Some(function) = home.by_offset.get(&at).and_then(|index| home.functions.get(*index)) else { break };
            types.extend(of_name(&function.variables, name));
            origin = function.origin;
        }
        let first = *types.first()?;
        let same = |other: &At| *other == first || self.name(dwarf, *other) == self.name(dwarf, first);
        types.iter().all(same).then_some(first)
    }

    /// The member `name` of a type, through references, smart pointers and guards: the path of the structure that has it, and its type.
    pub(super) fn member(&self, dwarf: &gimli::Dwarf<Slice>, of: At, name: &str) -> Option<(String, At)> {
        let mut at = of;
        for _ in 0..DEEPEST {
            match self.get(dwarf, at)? {
                Type::Pointer { to, .. } => at = to?,
                Type::Structure { path, members, arguments, .. } => {
                    let own = || members.iter().find(|member| member.name.trim_start_matches("__") == name);
                    let found = if is_library(&path) { None } else { own() };
                    if let Some(found) = found {
                        return Some((path, found.of));
                    }
                    at = arguments.iter().find(|argument| ["T", "Ptr", "P"].contains(&argument.0))?.1;
                }
                Type::Array { .. } | Type::Other { .. } => return None,
            }
        }
        None
    }

    /// The structure behind references to it.
    pub(super) fn referent(&self, dwarf: &gimli::Dwarf<Slice>, of: At) -> Option<String> {
        let mut at = of;
        for _ in 0..DEEPEST {
            match self.get(dwarf, at)? {
                Type::Pointer { to, .. } => at = to?,
                Type::Structure { path, .. } => return Some(path),
                Type::Array { .. } | Type::Other { .. } => return None,
            }
        }
        None
    }

    /// The way from a variable's type to what lies at an offset in it and satisfies `is_wanted`, as `.field[3]`, with that type's name.
    /// `None` where there is none, or several with different ways.
    pub(super) fn inside(
        &self,
        dwarf: &gimli::Dwarf<Slice>,
        of: At,
        offset: u64,
        is_wanted: &dyn Fn(&str) -> bool,
    ) -> Option<(String, String)> {
        let mut found = Vec::new();
        self.descend(dwarf, of, offset, is_wanted, "", 0, &mut found);
        let first = found.first().cloned()?;
        found.iter().all(|other| *other == first).then_some(first)
    }

    #[allow(clippy::too_many_arguments)]
    fn descend(
        &self,
        dwarf: &gimli::Dwarf<Slice>,
        of: At,
        offset: u64,
        is_wanted: &dyn Fn(&str) -> bool,
        way: &str,
        depth: usize,
        found: &mut Vec<(String, String)>,
    ) {
        if depth > DEEPEST || found.len() > DEEPEST {
            return;
        }
        match self.get(dwarf, of) {
            Some(Type::Structure { path, members, .. }) => {
                if is_wanted(&path) {
                    found.push((way.to_owned(), path));
                    return;
                }
                for member in &members {
                    let end = member.offset.saturating_add(self.bytes(dwarf, member.of));
                    if !(member.offset..end).contains(&offset) {
                        continue;
                    }
                    let name = member.name.trim_start_matches("__");
                    // A structure around one unnamed value is that value.
                    let is_newtype = member.name == "__0" && members.len() == 1;
                    let way = if is_library(&path) || is_newtype { way.to_owned() } else { format!("{way}.{name}") };
                    self.descend(dwarf, member.of, offset - member.offset, is_wanted, &way, depth + 1, found);
                }
            }
            Some(Type::Array { of: Some(element), .. }) => {
                let bytes = self.bytes(dwarf, element).max(1);
                let way = format!("{way}[{}]", offset / bytes);
                self.descend(dwarf, element, offset % bytes, is_wanted, &way, depth + 1, found);
            }
            Some(Type::Other { name, .. }) if is_wanted(name) => found.push((way.to_owned(), name.to_owned())),
            _ => {}
        }
    }
}

fn of_name<'a>(variables: &'a [(&'static str, At)], name: &'a str) -> impl Iterator<Item = At> + 'a {
    variables.iter().filter(move |variable| variable.0 == name).map(|variable| variable.1)
}

/// Whether a type's own fields are its library's business.
pub(super) fn is_library(path: &str) -> bool {
    [
        "std::",
        "core::",
        "alloc::",
        "lock_api::",
        "parking_lot::",
        "once_cell::",
        "lazy_static::",
        "crossbeam_utils::",
        "spin::",
    ]
    .iter()
    .any(|library| path.starts_with(library))
}

fn text(unit: &UnitRef<'_, Slice>, entry: &DebuggingInformationEntry<Slice>) -> &'static str {
    match entry.attr_value(dw::DW_AT_name).map(|value| unit.attr_string(value)) {
        Some(Ok(name)) => std::str::from_utf8(name.slice()).unwrap_or_default(),
        _ => "",
    }
}

pub(super) fn reference(
    unit: &UnitRef<'_, Slice>,
    entry: &DebuggingInformationEntry<Slice>,
    attribute: gimli::DwAt,
) -> Option<At> {
    match entry.attr_value(attribute)? {
        AttributeValue::UnitRef(at) => at.to_debug_info_offset(&unit.header).map(|at| at.0),
        AttributeValue::DebugInfoRef(at) => Some(at.0),
        _ => None,
    }
}

fn number(entry: &DebuggingInformationEntry<Slice>, attribute: gimli::DwAt) -> u64 {
    entry.attr(attribute).and_then(gimli::Attribute::udata_value).unwrap_or(0)
}

fn read_unit(unit: &UnitRef<'_, Slice>, out: &mut Unit) -> gimli::Result<()> {
    let mut scopes: Vec<(isize, Scope)> = Vec::new();
    let mut entries = unit.entries();
    while let Some(entry) = entries.next_dfs()? {
        let depth = entry.depth();
        while scopes.last().is_some_and(|scope| scope.0 >= depth) {
            scopes.pop();
        }
        let at = entry.offset().to_debug_info_offset(&unit.header).map_or(usize::MAX, |at| at.0);
        let scope = match entry.tag() {
            dw::DW_TAG_namespace => Scope::Named(text(unit, entry)),
            dw::DW_TAG_structure_type | dw::DW_TAG_union_type | dw::DW_TAG_class_type => {
                let mut path = String::new();
                for (_, scope) in &scopes {
                    if let Scope::Named(name) = scope {
                        path.push_str(name);
                        path.push_str("::");
                    }
                }
                // Types that are made of others, as `&[T]`, `(A, B)` and `dyn Trait`, have no path of their own.
                path.push_str(text(unit, entry));
                let bytes = number(entry, dw::DW_AT_byte_size);
                let structure = Type::Structure { path, bytes, members: Vec::new(), arguments: Vec::new() };
                out.types.insert(at, structure);
                Scope::Type(at)
            }
            dw::DW_TAG_pointer_type | dw::DW_TAG_reference_type => {
                let to = reference(unit, entry, dw::DW_AT_type);
                out.types.insert(at, Type::Pointer { name: text(unit, entry), to });
                Scope::Other
            }
            dw::DW_TAG_array_type => {
                let of = reference(unit, entry, dw::DW_AT_type);
                out.types.insert(at, Type::Array { of, bytes_of_all: number(entry, dw::DW_AT_byte_size) });
                Scope::Type(at)
            }
            dw::DW_TAG_subrange_type => {
                if let Some((_, Scope::Type(array))) = scopes.last()
                    && let Some(Type::Array { of: Some(of), bytes_of_all: 0 }) = out.types.get(array)
                {
                    let element = match out.types.get(of) {
                        Some(Type::Structure { bytes, .. } | Type::Other { bytes, .. }) => *bytes,
                        Some(Type::Pointer { .. }) => 8,
                        // An array whose elements are described later is taken as long as can be.
                        _ => 1 << 20,
                    };
                    let bytes_of_all = number(entry, dw::DW_AT_count).saturating_mul(element);
                    out.types.insert(*array, Type::Array { of: Some(*of), bytes_of_all });
                }
                Scope::Other
            }
            dw::DW_TAG_base_type | dw::DW_TAG_enumeration_type => {
                let bytes = number(entry, dw::DW_AT_byte_size);
                out.types.insert(at, Type::Other { name: text(unit, entry), bytes });
                Scope::Other
            }
            dw::DW_TAG_member => {
                if let (Some((_, Scope::Type(owner))), Some(of)) =
                    (scopes.last(), reference(unit, entry, dw::DW_AT_type))
                    && let Some(Type::Structure { members, .. }) = out.types.get_mut(owner)
                {
                    let offset = number(entry, dw::DW_AT_data_member_location);
                    members.push(Member { name: text(unit, entry), of, offset });
                }
                Scope::Other
            }
            dw::DW_TAG_template_type_parameter => {
                if let (Some((_, Scope::Type(owner))), Some(of)) =
                    (scopes.last(), reference(unit, entry, dw::DW_AT_type))
                    && let Some(Type::Structure { arguments, .. }) = out.types.get_mut(owner)
                {
                    arguments.push((text(unit, entry), of));
                }
                Scope::Other
            }
            dw::DW_TAG_subprogram | dw::DW_TAG_inlined_subroutine => {
                let mut ranges = Vec::new();
                if let Ok(mut all) = unit.die_ranges(entry) {
                    while let Ok(Some(range)) = all.next() {
                        ranges.push((range.begin, range.end));
                    }
                }
                let parent = scopes.iter().rev().find_map(|(_, scope)| match scope {
                    Scope::Function(index) => Some(*index),
                    _ => None,
                });
                let origin = reference(unit, entry, dw::DW_AT_abstract_origin)
                    .or_else(|| reference(unit, entry, dw::DW_AT_specification));
                out.by_offset.insert(at, out.functions.len());
                out.functions.push(Function { ranges, parent, depth, origin, variables: Vec::new() });
                Scope::Function(out.functions.len() - 1)
            }
            dw::DW_TAG_formal_parameter | dw::DW_TAG_variable => {
                // One without a name is an instance of one that is inlined, and named there.
                let function = scopes.iter().rev().find_map(|(_, scope)| match scope {
                    Scope::Function(index) => Some(*index),
                    _ => None,
                });
                let name = text(unit, entry);
                if let (Some(function), Some(of)) = (function, reference(unit, entry, dw::DW_AT_type))
                    && !name.is_empty()
                    && let Some(function) = out.functions.get_mut(function)
                {
                    function.variables.push((name, of));
                }
                Scope::Other
            }
            _ => Scope::Other,
        };
        scopes.push((depth, scope));
    }
    Ok(())
}
