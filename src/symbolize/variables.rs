//! Statics as debuginfo declares them: address, name, file and line.

use super::image::Slice;
use super::types::{At, reference};
use gimli::{
    AttributeValue, DW_AT_decl_file, DW_AT_decl_line, DW_AT_location, DW_AT_name, DW_AT_type, DW_TAG_variable,
    Operation,
};

/// A static variable of debuginfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    /// Static address.
    pub(super) address: u64,
    /// Size in bytes; 0 where unknown.
    pub(super) size: u64,
    /// Name without its path.
    pub(super) name: String,
    /// File; empty where unknown.
    pub(super) file: String,
    /// Line; 0 where unknown.
    pub(super) line: u32,
    /// Its type.
    pub(super) of: Option<At>,
}

/// All statics with a fixed address, in the order of debuginfo. Damaged units are skipped from the damage on.
pub(super) fn declared(dwarf: &gimli::Dwarf<Slice>) -> Vec<Declared> {
    let mut all = Vec::new();
    let mut units = dwarf.units();
    while let Ok(Some(header)) = units.next() {
        let Ok(unit) = dwarf.unit(header) else { continue };
        let unit = unit.unit_ref(dwarf);
        let mut entries = unit.entries();
        while let Ok(Some(entry)) = entries.next_dfs() {
            if entry.tag() != DW_TAG_variable {
                continue;
            }
            let Some(AttributeValue::Exprloc(expression)) = entry.attr_value(DW_AT_location) else { continue };
            let mut operations = expression.operations(unit.encoding());
            let Ok(Some(Operation::Address { address })) = operations.next() else { continue };
            let name = match entry.attr_value(DW_AT_name).map(|value| unit.attr_string(value)) {
                Some(Ok(name)) => name.to_string_lossy().into_owned(),
                _ => continue,
            };
            let line = match entry.attr_value(DW_AT_decl_line) {
                Some(value) => value.udata_value().unwrap_or(0) as u32,
                None => 0,
            };
            let file = match entry.attr_value(DW_AT_decl_file) {
                Some(AttributeValue::FileIndex(index)) => file_name(&unit, index).unwrap_or_default(),
                Some(value) => value.udata_value().and_then(|index| file_name(&unit, index)).unwrap_or_default(),
                None => String::new(),
            };
            let of = reference(&unit, entry, DW_AT_type);
            all.push(Declared { address, size: 0, name, file, line, of });
        }
    }
    all
}

fn file_name(unit: &gimli::UnitRef<'_, Slice>, index: u64) -> Option<String> {
    let program = unit.line_program.as_ref()?;
    let header = program.header();
    let file = header.file(index)?;
    let mut path = std::path::PathBuf::new();
    if let Some(folder) = unit.comp_dir {
        path.push(folder.to_string_lossy().as_ref());
    }
    if let Some(folder) = file.directory(header).and_then(|value| unit.attr_string(value).ok()) {
        path.push(folder.to_string_lossy().as_ref());
    }
    let name = unit.attr_string(file.path_name()).ok()?;
    path.push(name.to_string_lossy().as_ref());
    Some(path.display().to_string())
}
