//! Unwind rows for the runtime: what `.eh_frame` says, in a form that can be searched without parsing.
//!
//! Only the usual is kept: a frame at a constant distance from `rsp` or `rbp`, the return address below it. Code that is
//! described in any other way (expressions, in hand-written assembly) ends a stack there; so does a damaged entry.

use crate::elf::Image;
use crate::wire::plan::{UNWIND_RBP, UNWIND_RSP, UNWIND_STOP, UnwindRow};
use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, LittleEndian, RegisterRule, UnwindContext, UnwindSection as _, X86_64,
};

/// The rows of an image for its text, ascending by start.
pub(super) fn rows(data: &[u8], text: (u64, u64)) -> Vec<UnwindRow> {
    let mut rows = Vec::new();
    let Ok(image) = Image::parse(data) else { return rows };
    let (Some(section), Some(bytes)) = (image.section(".eh_frame"), image.section_bytes(".eh_frame")) else {
        return rows;
    };
    let eh_frame = EhFrame::new(&bytes, LittleEndian);
    let start = |name: &str| image.section(name).map_or(0, |section| section.start);
    let bases = BaseAddresses::default().set_eh_frame(section.start).set_text(start(".text")).set_got(start(".got"));
    let mut context = UnwindContext::new();
    let mut entries = eh_frame.entries(&bases);
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let Ok(fde) = partial.parse(|section, bases, offset| section.cie_from_offset(bases, offset)) else { continue };
        let end = fde.end_address();
        if fde.initial_address() < text.0 || end > text.1 {
            continue;
        }
        if let Ok(mut table) = fde.rows(&eh_frame, &bases, &mut context) {
            while let Ok(Some(row)) = table.next_row() {
                let (base, frame_offset) = match row.cfa() {
                    CfaRule::RegisterAndOffset { register: X86_64::RSP, offset } => (UNWIND_RSP, *offset),
                    CfaRule::RegisterAndOffset { register: X86_64::RBP, offset } => (UNWIND_RBP, *offset),
                    _ => (UNWIND_STOP, 0),
                };
                let rbp_offset = match row.register(X86_64::RBP) {
                    Some(RegisterRule::Offset(offset)) => i16::try_from(offset).ok(),
                    None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Some(0),
                    _ => None,
                };
                let whole = matches!(row.register(X86_64::RA), Some(RegisterRule::Offset(-8)));
                let new = |base, rbp_offset, frame_offset| UnwindRow {
                    start: (row.start_address() - text.0) as u32,
                    base,
                    rbp_offset,
                    frame_offset,
                };
                rows.push(match (whole, rbp_offset, i32::try_from(frame_offset)) {
                    (true, Some(rbp_offset), Ok(frame_offset)) => new(base, rbp_offset, frame_offset),
                    _ => new(UNWIND_STOP, 0, 0),
                });
            }
        }
        // What no entry describes is not walked through.
        rows.push(UnwindRow { start: (end - text.0) as u32, base: UNWIND_STOP, rbp_offset: 0, frame_offset: 0 });
    }
    // An entry that starts where another ends replaces that one's last row.
    rows.sort_by_key(|row| (row.start, row.base == UNWIND_STOP));
    rows.dedup_by_key(|row| row.start);
    rows
}
