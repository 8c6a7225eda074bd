//! The GGUF reader: what it reads, what it refuses, and that no bytes make it panic.

mod model_parts;

use model_parts::{GgufWriter, tiny_gguf};
use proptest::prelude::*;
use worker::model::gguf::{GgufError, GgufHeader};
use worker::model::hf_files::HfFiles;

fn read(bytes: &[u8]) -> Result<GgufHeader, GgufError> {
    let header = GgufHeader::parse(bytes, bytes.len() as u64)?;
    header.check_size()?;
    Ok(header)
}

#[test]
fn metadata_and_tensors_are_read_as_written() {
    let bytes = tiny_gguf().number("general.file_type", 7).tensor("output.weight", &[8, 258]).bytes();
    let header = read(&bytes).expect("a whole file");
    assert_eq!((header.version, header.architecture(), header.quantization()), (3, "llama", Some("Q8_0")));
    assert_eq!(header.architecture_number("context_length"), Some(512));
    assert_eq!(header.texts("tokenizer.ggml.tokens").map(<[String]>::len), Some(258));
    assert_eq!(header.integers("tokenizer.ggml.token_type").map(|t| t[257]), Some(3));
    let tensor = &header.tensors[1];
    assert_eq!((tensor.elements, tensor.size, tensor.offset), (8 * 258, Some(8 * 258 * 4), 8 * 258 * 4));
    assert!(header.has_tensor("output.weight") && !header.has_tensor("output"));
}

#[test]
fn without_a_file_type_the_type_of_most_weights_counts() {
    assert_eq!(read(&tiny_gguf().bytes()).expect("whole").quantization(), Some("F32"));
}

#[test]
fn a_file_cut_anywhere_is_truncated_and_says_both_sizes() {
    let bytes = tiny_gguf().bytes();
    for length in 4..bytes.len() {
        match read(&bytes[..length]) {
            Err(GgufError::Truncated { has, needs }) => assert!(has == length as u64 && needs > has, "{has} {needs}"),
            other => panic!("cut at {length}: {:?}", other.map(|header| header.version)),
        }
    }
    let error = read(&bytes[..bytes.len() - 1]).expect_err("cut by a byte");
    let (has, needs) = (bytes.len() - 1, bytes.len());
    assert_eq!(error.to_string(), format!("the file is truncated: has {has} bytes, its header needs {needs}"));
}

#[test]
fn what_is_no_gguf_is_told_by_its_first_bytes() {
    for (bytes, shown) in
        [(&b"PK\x03\x04........"[..], "PK\\x03\\x04"), (b"<htm", "<htm"), (b"", "0 bytes"), (b"GGU", "3 bytes")]
    {
        let error = read(bytes).expect_err("no GGUF");
        assert!(matches!(&error, GgufError::NotGguf { found } if found.contains(shown)), "{error}");
    }
    let mut old = tiny_gguf().bytes();
    old[4] = 1;
    assert_eq!(read(&old), Err(GgufError::Version { version: 1 }));
}

#[test]
fn counts_beyond_the_limits_are_refused_before_anything_is_allocated() {
    let good = tiny_gguf().bytes();
    let with_u64 = |at: usize, number: u64| {
        let mut bytes = good.clone();
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        read(&bytes).expect_err("refused")
    };
    //  tensors, keys, length of the first key, length of its value
    for at in [8, 16, 24, 24 + 8 + "general.architecture".len() + 4] {
        for number in [u64::MAX, 1 << 62, 1 << 40] {
            assert!(matches!(with_u64(at, number), GgufError::Malformed { .. }), "{at}");
        }
    }
    let long = GgufWriter::llama().number("general.alignment", 0).bytes();
    assert!(matches!(read(&long), Err(GgufError::Malformed { what }) if what.contains("general.alignment")));
    let twice = GgufWriter::llama().text("general.architecture", "x").bytes();
    assert!(matches!(read(&twice), Err(GgufError::Malformed { what }) if what.contains("twice")));
}

#[test]
fn an_unknown_tokenizer_is_named() {
    let files =
        |writer: GgufWriter| HfFiles::from_gguf(&read(&writer.bytes()).expect("whole")).err().map(|e| e.to_string());
    let error = files(GgufWriter::llama().text("tokenizer.ggml.model", "rwkv")).expect("refused");
    assert!(error.contains("`rwkv`"), "{error}");
    let error = files(GgufWriter::llama()).expect("refused");
    assert!(error.contains("(none)"), "{error}");
    let strange = GgufWriter::llama()
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "next-year")
        .texts("tokenizer.ggml.tokens", &["a"])
        .texts::<&str>("tokenizer.ggml.merges", &[]);
    assert!(files(strange).expect("refused").contains("`next-year`"));
    let no_pair = GgufWriter::llama()
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "gpt-2")
        .texts("tokenizer.ggml.tokens", &["a", "b"])
        .texts("tokenizer.ggml.merges", &["a b"]);
    assert!(files(no_pair).expect("refused").contains("makes no token"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_change_of_a_header_makes_the_reader_panic(
        changes in prop::collection::vec((0usize..9000, any::<u8>()), 1..6),
        wide in prop::option::of((0usize..9000, any::<u64>())),
        cut in prop::option::of(0usize..9000),
    ) {
        let mut bytes = tiny_gguf().bytes();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Some((at, number)) = wide {
            let at = at % (bytes.len() - 8);
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        if let Ok(header) = read(&bytes) {
            // What can be read must be usable or refused with a reason.
            let _ = HfFiles::from_gguf(&header).map(|files| files.files.len());
        }
    }

    #[test]
    fn no_bytes_behind_the_magic_make_the_reader_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        bytes.splice(0..0, *b"GGUF\x03\0\0\0");
        let _ = read(&bytes);
    }
}
