//! Scenario 58: texts made to cost more than their bytes. Each is tokenized in time that grows with its length; one that
//! grew with its square would take hours and reach the cap.

use crate::data;
use frontend::text::Tokenizer;
use std::sync::mpsc;
use std::time::Duration;

/// Only a defect reaches it: each of these texts takes a second at most on a busy machine.
const CAP: Duration = Duration::from_secs(120);
const MEGABYTE: usize = 1_000_000;

/// Text that says nothing twice within a line, from a fixed seed.
fn letters(count: usize, alphabet: &[char]) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        alphabet[(state >> 33) as usize % alphabet.len()]
    };
    (0..count).map(|_| next()).collect()
}

fn bombs() -> Vec<(&'static str, String)> {
    let latin: Vec<char> = ('a'..='z').collect();
    let marks: Vec<char> = ('\u{300}'..='\u{36f}').collect();
    let zalgo: String = (0..20_000)
        .flat_map(|n| {
            std::iter::once('e').chain(
                (0..24)
                    .map(move |m| (n, m))
                    .map(|(n, m)| char::from_u32(0x300 + (n * 7 + m * 13) % 0x70).unwrap_or('\u{301}')),
            )
        })
        .collect();
    vec![
        ("one letter a million times", "a".repeat(MEGABYTE)),
        ("a word of a megabyte", letters(MEGABYTE, &latin)),
        ("a million spaces", " ".repeat(MEGABYTE)),
        ("a million spaces before a letter", " ".repeat(MEGABYTE) + "x"),
        ("a million line breaks", "\n".repeat(MEGABYTE)),
        ("spaces and line breaks in turn", " \n".repeat(MEGABYTE / 2)),
        ("digits", "1234567890".repeat(MEGABYTE / 10)),
        ("marks of every kind over every letter", zalgo),
        ("one letter under all the marks there are", format!("e{}", letters(MEGABYTE / 2, &marks))),
        ("joined emoji", "👩\u{200d}".repeat(MEGABYTE / 7)),
        ("apostrophes", "'".repeat(MEGABYTE)),
        ("control tokens", "<|im_end|>".repeat(MEGABYTE / 10)),
        ("nearly control tokens", "<|im_end|".repeat(MEGABYTE / 9)),
        ("zeros", "\u{0}".repeat(MEGABYTE)),
    ]
}

#[test]
fn no_text_costs_more_than_its_length() {
    let mut folders = vec![data("tiny-bpe"), data("tiny-sp")];
    match std::env::var("BUSBAR_TEST_MODEL_DIR") {
        Ok(folder) => folders.push(folder.into()),
        Err(_) => eprintln!("BUSBAR_TEST_MODEL_DIR is not set: only the committed tokenizers are tested"),
    }
    for folder in folders {
        for (what, text) in bombs() {
            let (done, waiting) = mpsc::sync_channel(1);
            let path = folder.join("tokenizer.json");
            std::thread::spawn(move || {
                let tokenizer = Tokenizer::load(&path).unwrap();
                let started = std::time::Instant::now();
                let ids = tokenizer.encode(&text, false).unwrap();
                let _ = done.send((ids.len(), text.len(), started.elapsed()));
            });
            let ended = waiting.recv_timeout(CAP);
            let (tokens, bytes, took) =
                ended.unwrap_or_else(|_| panic!("{what}: not in {CAP:?}, {}", folder.display()));
            eprintln!("{:>9} bytes, {tokens:>8} tokens, {took:>10.1?}: {what}, {}", bytes, folder.display());
            assert!(tokens > 0, "{what}");
        }
    }
}
