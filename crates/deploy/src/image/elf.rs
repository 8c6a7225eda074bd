//! As much of an ELF file as a dynamic loader reads first: which loader, which libraries, where they are looked for.
//!
//! Only 64-bit little-endian files, which is every machine that the binary is built for.
//! Source: System V ABI, "Object Files" and "Program Loading and Dynamic Linking".

use std::ops::Range;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
/// Program headers of one file that are believed; a linker writes about a dozen.
const SEGMENTS_MAX: u16 = 256;
/// Entries of one dynamic section that are believed; large programs have some hundred.
const DYNAMIC_MAX: usize = 4096;

/// What a loader reads of a program or a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Elf {
    /// `e_machine`: 62 is x86-64, 183 is AArch64.
    pub(super) machine: u16,
    /// The loader's path and where it stands in the file, its closing zero included. A library has none.
    pub(super) interpreter: Option<(String, Range<usize>)>,
    /// Libraries that it needs, by name.
    pub(super) needed: Vec<String>,
    /// Folders in which the loader looks for these first.
    pub(super) search: Vec<String>,
    /// End of the last part that is loaded: what follows is for debuggers and linkers.
    loaded_end: usize,
}

/// Why a file is no ELF file that could be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// It begins otherwise.
    #[error("it is no 64-bit little-endian ELF file")]
    Kind,
    /// A table points out of the file.
    #[error("its headers point out of the file: it is cut or damaged")]
    Bounds,
    /// The loader's path does not fit where the old one stands.
    #[error("it names no dynamic loader, or one whose path is shorter than ours")]
    Interpreter,
}

/// One program header, as far as it matters.
struct Segment {
    kind: u32,
    file: Range<usize>,
    address: u64,
}

impl Elf {
    /// Reads `file`, which is whole.
    pub(super) fn parse(file: &[u8]) -> Result<Self, ElfError> {
        if file.get(..6) != Some(b"\x7fELF\x02\x01") {
            return Err(ElfError::Kind);
        }
        let segments = segments(file)?;
        let of_kind = |kind| segments.iter().find(move |segment: &&Segment| segment.kind == kind);
        let interpreter = match of_kind(PT_INTERP) {
            None => None,
            Some(segment) => Some((text_at(file, segment.file.start)?, segment.file.clone())),
        };
        let (needed, search) = match of_kind(PT_DYNAMIC) {
            None => (Vec::new(), Vec::new()),
            Some(segment) => dynamic(file, segment, &segments)?,
        };
        let loaded_end = segments.iter().map(|segment| segment.file.end).max().unwrap_or(file.len());
        Ok(Self { machine: u16_at(file, 18)?, interpreter, needed, search, loaded_end })
    }

    /// The same program for another loader.
    ///
    /// # Errors
    /// [`ElfError::Interpreter`] where `path` is longer than the one that it replaces.
    pub(super) fn with_interpreter(&self, mut file: Vec<u8>, path: &str) -> Result<Vec<u8>, ElfError> {
        let (_, place) = self.interpreter.clone().ok_or(ElfError::Interpreter)?;
        let place = file.get_mut(place).ok_or(ElfError::Bounds)?;
        if path.len() >= place.len() {
            return Err(ElfError::Interpreter);
        }
        place.fill(0);
        place[..path.len()].copy_from_slice(path.as_bytes());
        Ok(file)
    }

    /// The same program without what no loader reads: names of functions and lines of source.
    pub(super) fn stripped(&self, mut file: Vec<u8>) -> Result<Vec<u8>, ElfError> {
        // Section headers describe what is cut off: e_shoff, then e_shentsize, e_shnum and e_shstrndx say "none".
        file.get_mut(0x28..0x30).ok_or(ElfError::Bounds)?.fill(0);
        file.get_mut(0x3a..0x40).ok_or(ElfError::Bounds)?.fill(0);
        file.truncate(self.loaded_end);
        Ok(file)
    }
}

fn segments(file: &[u8]) -> Result<Vec<Segment>, ElfError> {
    let (offset, size, count) = (u64_at(file, 32)?, u16_at(file, 54)?, u16_at(file, 56)?);
    if count > SEGMENTS_MAX {
        return Err(ElfError::Bounds);
    }
    (0..count)
        .map(|index| {
            let at = index_of(offset)?.checked_add(usize::from(size) * usize::from(index)).ok_or(ElfError::Bounds)?;
            let start = index_of(u64_at(file, at + 8)?)?;
            let end = start.checked_add(index_of(u64_at(file, at + 32)?)?).filter(|end| *end <= file.len());
            let file_range = start..end.ok_or(ElfError::Bounds)?;
            Ok(Segment { kind: u32_at(file, at)?, file: file_range, address: u64_at(file, at + 16)? })
        })
        .collect()
}

/// Needed libraries and search folders.
fn dynamic(file: &[u8], table: &Segment, segments: &[Segment]) -> Result<(Vec<String>, Vec<String>), ElfError> {
    let mut entries = Vec::new();
    for at in table.file.clone().step_by(16).take(DYNAMIC_MAX) {
        match u64_at(file, at)? {
            0 => break,
            tag => entries.push((tag, u64_at(file, at + 8)?)),
        }
    }
    let Some((_, strings)) = entries.iter().find(|(tag, _)| *tag == DT_STRTAB) else {
        return Ok((Vec::new(), Vec::new()));
    };
    let strings = offset_of(*strings, segments)?;
    let texts = |wanted: &[u64]| -> Result<Vec<String>, ElfError> {
        let found = entries.iter().filter(|(tag, _)| wanted.contains(tag));
        found.map(|(_, at)| text_at(file, strings.checked_add(index_of(*at)?).ok_or(ElfError::Bounds)?)).collect()
    };
    let search = texts(&[DT_RPATH, DT_RUNPATH])?;
    let search = search.iter().flat_map(|paths| paths.split(':')).filter(|path| !path.is_empty());
    Ok((texts(&[DT_NEEDED])?, search.map(str::to_owned).collect()))
}

/// Where an address of the loaded program stands in the file.
fn offset_of(address: u64, segments: &[Segment]) -> Result<usize, ElfError> {
    segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .find_map(|segment| {
            let within = index_of(address.checked_sub(segment.address)?).ok()?;
            (within < segment.file.len()).then(|| segment.file.start + within)
        })
        .ok_or(ElfError::Bounds)
}

fn index_of(value: u64) -> Result<usize, ElfError> {
    usize::try_from(value).map_err(|_| ElfError::Bounds)
}

fn bytes_at<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N], ElfError> {
    let end = at.checked_add(N).ok_or(ElfError::Bounds)?;
    file.get(at..end).and_then(|bytes| bytes.try_into().ok()).ok_or(ElfError::Bounds)
}

fn u16_at(file: &[u8], at: usize) -> Result<u16, ElfError> {
    bytes_at(file, at).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: usize) -> Result<u32, ElfError> {
    bytes_at(file, at).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], at: usize) -> Result<u64, ElfError> {
    bytes_at(file, at).map(u64::from_le_bytes)
}

/// A text that a zero ends.
fn text_at(file: &[u8], at: usize) -> Result<String, ElfError> {
    let rest = file.get(at..).ok_or(ElfError::Bounds)?;
    let end = rest.iter().position(|byte| *byte == 0).ok_or(ElfError::Bounds)?;
    Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This very test program, which a linker of this machine made.
    fn this_program() -> Vec<u8> {
        std::fs::read(std::env::current_exe().expect("a path")).expect("a file")
    }

    #[test]
    fn a_program_names_its_loader_and_its_libraries() {
        let elf = Elf::parse(&this_program()).expect("an ELF file");
        assert!(elf.interpreter.as_ref().is_some_and(|(path, _)| path.contains("ld-")), "{elf:?}");
        assert!(elf.needed.iter().any(|name| name.starts_with("libc.so")), "{elf:?}");
    }

    #[test]
    fn another_loader_takes_the_place_of_the_first_and_must_fit() {
        let file = this_program();
        let elf = Elf::parse(&file).expect("an ELF file");
        let changed = elf.with_interpreter(file.clone(), "/x/ld.so").expect("it fits");
        assert_eq!(changed.len(), file.len());
        let (path, _) = Elf::parse(&changed).expect("an ELF file").interpreter.expect("a loader");
        assert_eq!(path, "/x/ld.so");
        assert_eq!(elf.with_interpreter(file, &"/x".repeat(200)), Err(ElfError::Interpreter));
    }

    #[test]
    fn what_is_cut_or_no_program_is_an_error_and_never_a_panic() {
        let file = this_program();
        assert_eq!(Elf::parse(b"#!/bin/sh\n"), Err(ElfError::Kind));
        assert_eq!(Elf::parse(&file[..40]), Err(ElfError::Bounds));
        let elf = Elf::parse(&file).expect("an ELF file");
        assert_eq!(Elf::parse(&file[..elf.loaded_end - 1]), Err(ElfError::Bounds));
        // Every byte of the headers wrong once.
        for at in 0..64 {
            let mut damaged = file[..4096].to_vec();
            damaged[at] ^= 0xff;
            let _ = Elf::parse(&damaged);
        }
    }
}
