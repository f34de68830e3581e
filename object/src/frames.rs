//! Function bounds as the unwind tables (`.eh_frame`) give them. It knows no
//! symbol.

use std::ops::Range;

use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection};

use crate::elf::ElfFile;

/// Address ranges of all frame descriptions, in table order. What does not
/// parse ends the list.
pub(crate) fn ranges(file: &ElfFile<'_>) -> Vec<Range<u64>> {
    let Some((address, bytes)) = file.section(".eh_frame") else {
        return Vec::new();
    };
    let mut section = EhFrame::new(bytes, LittleEndian);
    section.set_address_size(match file.class() {
        crate::Class::Elf32 => 4,
        crate::Class::Elf64 => 8,
    });
    let bases = BaseAddresses::default().set_eh_frame(address);
    let mut entries = section.entries(&bases);
    let mut found = Vec::new();
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else {
            continue;
        };
        if let Ok(fde) =
            partial.parse(|section, bases, offset| section.cie_from_offset(bases, offset))
        {
            let start = fde.initial_address();
            found.push(start..start.saturating_add(fde.len()));
        }
    }
    found
}
