//! The file of `--planner-profile-data`: NumPy's `.npz`, a zip of arrays.

use sim::profile::{Profile, ProfileArrays, ProfileError};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Most bytes of one array: a grid of 1,000 × 1,000 points is 8 MB.
const ARRAY_BYTES_MAX: u64 = 64 << 20;

/// A profile that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ProfileFileError {
    /// It is a profiler's folder.
    #[error(
        "{0} is a folder; --planner-profile-data takes the .npz file that Dynamo's \
         mocker/utils/planner_profiler_perf_data_converter.py makes of it"
    )]
    Folder(PathBuf),
    /// It is not there, or no zip.
    #[error("read the profile {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An array is missing or is none of numbers.
    #[error("`{array}` of the profile {path}: {why}")]
    Array {
        /// The file.
        path: PathBuf,
        /// Which.
        array: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The arrays do not fit together.
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

/// Reads a profile: the arrays of [`ProfileArrays`], each of numbers (f4, f8, i4 or i8) in C order.
///
/// # Errors
/// What is wrong, with the array's name.
pub fn read_profile(path: &Path) -> Result<Profile, ProfileFileError> {
    if path.is_dir() {
        return Err(ProfileFileError::Folder(path.to_owned()));
    }
    let open = |source| ProfileFileError::Open { path: path.to_owned(), source };
    let file = File::open(path).map_err(open)?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| open(error.into()))?;
    let mut array = |array: &'static str| {
        let found = archive.by_name(&format!("{array}.npy")).map_err(|error| error.to_string());
        let bytes = found.and_then(|member| {
            let mut bytes = Vec::new();
            let read = member.take(ARRAY_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
            if read as u64 > ARRAY_BYTES_MAX { Err(format!("is over {ARRAY_BYTES_MAX} bytes")) } else { Ok(bytes) }
        });
        let numbers = bytes.and_then(|bytes| numbers(&bytes));
        numbers.map_err(|why| ProfileFileError::Array { path: path.to_owned(), array, why })
    };
    let arrays = ProfileArrays {
        prefill_isl: array("prefill_isl")?,
        prefill_ttft_ms: array("prefill_ttft_ms")?,
        decode_active_kv_tokens: array("decode_active_kv_tokens")?,
        decode_context_length: array("decode_context_length")?,
        decode_itl: array("decode_itl")?,
    };
    Ok(Profile::new(arrays)?)
}

/// The numbers of an `.npy` file, in the order in which they lie.
///
/// Source: NumPy, `numpy.lib.format`: magic, version, header length (u16 or u32, little-endian), a dict literal, data.
fn numbers(bytes: &[u8]) -> Result<Vec<f64>, String> {
    let (version, rest) = match bytes.strip_prefix(b"\x93NUMPY") {
        Some([major, _, rest @ ..]) => (*major, rest),
        _ => return Err("is no .npy array".into()),
    };
    let (length, rest) = match (version, rest) {
        (1, [a, b, rest @ ..]) => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        (2 | 3, [a, b, c, d, rest @ ..]) => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        _ => return Err(format!("has version {version} of the .npy format; 1 to 3 are known")),
    };
    let (header, data) = rest.split_at_checked(length).ok_or("is cut in its header")?;
    let header = String::from_utf8_lossy(header);
    if header.contains("'fortran_order': True") {
        return Err("lies in Fortran order; save it in C order".into());
    }
    let kind = header.split("'descr': '").nth(1).and_then(|rest| rest.split('\'').next()).unwrap_or_default();
    match kind {
        "<f8" => values(data, f64::from_le_bytes),
        "<f4" => values(data, |bytes| f64::from(f32::from_le_bytes(bytes))),
        "<i8" => values(data, |bytes| i64::from_le_bytes(bytes) as f64),
        "<i4" => values(data, |bytes| f64::from(i32::from_le_bytes(bytes))),
        other => Err(format!("holds `{other}`; <f8, <f4, <i8 and <i4 are read")),
    }
}

fn values<const BYTES: usize>(data: &[u8], value: impl Fn([u8; BYTES]) -> f64) -> Result<Vec<f64>, String> {
    let (chunks, rest) = data.as_chunks::<BYTES>();
    if rest.is_empty() { Ok(chunks.iter().map(|&chunk| value(chunk)).collect()) } else { Err("is cut".into()) }
}

#[cfg(test)]
mod tests {
    use super::{ProfileFileError, numbers, read_profile};
    use std::io::Write;

    fn npy(kind: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': (2,), }}\n");
        [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    fn doubles(values: &[f64]) -> Vec<u8> {
        npy("<f8", &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    }

    #[test]
    fn the_four_kinds_of_numbers_are_read_and_anything_else_is_named() {
        assert_eq!(numbers(&doubles(&[1.5, 2.0])), Ok(vec![1.5, 2.0]));
        assert_eq!(numbers(&npy("<i4", &[1, 0, 0, 0, 255, 255, 255, 255])), Ok(vec![1.0, -1.0]));
        assert!(numbers(&npy("|O", &[])).unwrap_err().contains("|O"));
        assert!(numbers(&npy("<f8", &[1, 2, 3])).unwrap_err().contains("cut"));
        assert!(numbers(b"no array").unwrap_err().contains(".npy"));
    }

    #[test]
    fn a_profile_is_read_and_one_without_an_array_says_which() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, arrays: &[(&str, &[f64])]| {
            let path = folder.path().join(name);
            let mut archive = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
            for (array, values) in arrays {
                archive.start_file(format!("{array}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
                archive.write_all(&doubles(values)).unwrap();
            }
            archive.finish().unwrap();
            path
        };
        let arrays: [(&str, &[f64]); 5] = [
            ("prefill_isl", &[100.0, 200.0]),
            ("prefill_ttft_ms", &[10.0, 20.0]),
            ("decode_active_kv_tokens", &[0.0, 1000.0]),
            ("decode_context_length", &[1.0, 100.0]),
            ("decode_itl", &[4.0, 5.0, 8.0, 9.0]),
        ];
        read_profile(&write("whole.npz", &arrays)).unwrap();
        let part = read_profile(&write("part.npz", &arrays[..4])).unwrap_err();
        assert!(matches!(part, ProfileFileError::Array { array: "decode_itl", .. }), "{part:?}");
        assert!(matches!(read_profile(folder.path()), Err(ProfileFileError::Folder(_))));
        assert!(matches!(read_profile(&folder.path().join("none.npz")), Err(ProfileFileError::Open { .. })));
    }
}
