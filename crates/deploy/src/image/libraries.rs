//! The shared libraries that a program needs, found where this machine's loader would find them.

use super::elf::Elf;
use super::error::ImageError;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

/// Written by `ldconfig`: library names and where they are.
const LOADER_CACHE: &str = "/etc/ld.so.cache";
/// Where loaders look besides; the first ones are Debian's, the others everybody's.
const STANDARD_FOLDERS: [&str; 8] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];
/// Belongs to the node's kernel driver and is mounted into the container by its toolkit; a copy would be of another
/// version.
const LEFT_TO_THE_NODE: [&str; 2] = ["libcuda.so", "libnvidia-"];
/// Builds of a library for newer processors. The machine that packs may have one, the machine that runs may not.
const NEWER_PROCESSORS: &str = "glibc-hwcaps";
/// Libraries of one program that are followed; ours needs half a dozen.
const LIBRARIES_MAX: usize = 256;

/// A loader and the libraries of a program, contents by file name.
#[derive(Debug, Default)]
pub(super) struct Libraries {
    /// Contents of the loader; none for a static program.
    pub(super) loader: Option<Vec<u8>>,
    /// Contents of the libraries.
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

/// Everything that `program` needs to start, and what that needs.
///
/// # Errors
/// [`ImageError::Library`] where a library is not on this machine, [`ImageError::Read`], [`ImageError::Elf`].
pub(super) fn of(program: &Elf) -> Result<Libraries, ImageError> {
    let mut found = Libraries::default();
    let Some((loader, _)) = &program.interpreter else { return Ok(found) };
    let loader = PathBuf::from(loader);
    let loader_name = loader.file_name().unwrap_or_default().to_string_lossy().into_owned();
    found.loader = Some(read(&loader)?);
    let cache = std::fs::read(LOADER_CACHE).map(|bytes| loader_cache(&bytes)).unwrap_or_default();
    let mut waiting: VecDeque<(String, Vec<String>)> =
        program.needed.iter().map(|name| (name.clone(), program.search.clone())).collect();
    while let Some((name, search)) = waiting.pop_front() {
        let is_left = LEFT_TO_THE_NODE.iter().any(|prefix| name.starts_with(prefix));
        if is_left || name == loader_name || found.files.contains_key(&name) || found.files.len() >= LIBRARIES_MAX {
            continue;
        }
        let (elf, bytes) = find(&name, &search, &cache, program.machine)?;
        waiting.extend(elf.needed.into_iter().map(|next| (next, elf.search.clone())));
        found.files.insert(name, bytes);
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    std::fs::read(path).map_err(|source| ImageError::Read { path: path.to_owned(), source })
}

/// The first file by that name that is for the program's machine.
fn find(
    name: &str,
    search: &[String],
    cache: &[(String, PathBuf)],
    machine: u16,
) -> Result<(Elf, Vec<u8>), ImageError> {
    let searched = search.iter().filter(|folder| !folder.contains('$')).map(|folder| Path::new(folder).join(name));
    let cached = cache.iter().filter(|(known, _)| known == name).map(|(_, path)| path.clone());
    let standard = STANDARD_FOLDERS.iter().map(|folder| Path::new(folder).join(name));
    for path in searched.chain(cached).chain(standard).filter(|path| path.is_file()) {
        let bytes = read(&path)?;
        let elf = Elf::parse(&bytes).map_err(|source| ImageError::Elf { path, source })?;
        if elf.machine == machine {
            return Ok((elf, bytes));
        }
    }
    Err(ImageError::Library { name: name.to_owned() })
}

/// Names and paths in the loader's cache; nothing where it is of another form.
///
/// The form of glibc since 2.2: an old table may come first, then `glibc-ld.so.cache1.1`, u32 entries, u32 length of the
/// texts and five more u32, then 24 bytes an entry (i32 flags, u32 name, u32 path, …), offsets from the magic word.
/// Source: glibc, sysdeps/generic/dl-cache.h.
fn loader_cache(bytes: &[u8]) -> Vec<(String, PathBuf)> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const HEADER: usize = 48;
    const ENTRY: usize = 24;
    let Some(start) = bytes.windows(MAGIC.len()).position(|window| window == MAGIC) else { return Vec::new() };
    let table = &bytes[start..];
    let number = |at: usize| table.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let text = |at: usize| {
        let rest = table.get(at..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&rest[..end]).ok()
    };
    let entry = |index: usize| {
        let at = HEADER + index * ENTRY;
        let name = text(usize::try_from(number(at + 4)?).ok()?)?;
        let path = text(usize::try_from(number(at + 8)?).ok()?)?;
        Some((name.to_owned(), PathBuf::from(path)))
    };
    // More entries than the file has bytes for are none.
    let count = number(MAGIC.len()).and_then(|count| usize::try_from(count).ok()).unwrap_or_default();
    let count = count.min(table.len() / ENTRY);
    let entries = (0..count).filter_map(entry);
    entries.filter(|(_, path)| !path.to_string_lossy().contains(NEWER_PROCESSORS)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_gets_its_loader_its_libraries_and_theirs() {
        let program = std::fs::read(std::env::current_exe().expect("a path")).expect("a file");
        let found = of(&Elf::parse(&program).expect("an ELF file")).expect("all of them");
        assert!(found.loader.is_some());
        assert!(found.files.keys().any(|name| name.starts_with("libc.so")), "{:?}", found.files.keys());
        for bytes in found.files.values() {
            let needed = Elf::parse(bytes).expect("an ELF file").needed;
            let there = |name: &String| found.files.contains_key(name) || name.starts_with("ld-");
            assert!(needed.iter().all(there), "{needed:?}");
        }
    }

    #[test]
    fn a_library_that_is_nowhere_is_named() {
        let mut program =
            Elf::parse(&std::fs::read(std::env::current_exe().expect("a path")).expect("a file")).expect("an ELF file");
        program.needed = vec!["libnobody.so.7".into()];
        let error = of(&program).expect_err("nobody has it");
        assert!(error.to_string().contains("libnobody.so.7"), "{error}");
    }

    #[test]
    fn the_loaders_cache_is_read_without_the_builds_for_newer_processors() {
        let mut cache = b"ld.so-1.7.0\0padding".to_vec();
        let texts = b"libm.so.6\0/lib/libm.so.6\0/lib/glibc-hwcaps/x86-64-v3/libm.so.6\0";
        let mut table = b"glibc-ld.so.cache1.1".to_vec();
        table.extend(2u32.to_le_bytes());
        table.resize(48, 0);
        let texts_at = 48 + 2 * 24;
        for path in [25u32, 10] {
            let mut entry = 0x303u32.to_le_bytes().to_vec();
            entry.extend(u32::try_from(texts_at).expect("small").to_le_bytes());
            entry.extend((u32::try_from(texts_at).expect("small") + path).to_le_bytes());
            entry.resize(24, 0);
            table.extend(entry);
        }
        table.extend(texts);
        cache.extend(&table);
        assert_eq!(loader_cache(&cache), [("libm.so.6".to_owned(), PathBuf::from("/lib/libm.so.6"))]);
        for cut in 0..cache.len() {
            let _ = loader_cache(&cache[..cut]);
        }
    }
}
