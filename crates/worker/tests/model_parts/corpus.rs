//! Texts of every kind, for comparing tokenizers.

/// Named groups of texts.
pub(crate) fn groups() -> Vec<(&'static str, Vec<String>)> {
    let of = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    vec![
        ("nothing and little", of(&["", " ", "\n", "a", "é", "👍", "'", "\u{0}", "\u{200d}", "\u{feff}"])),
        (
            "prose",
            of(&[
                "The capital of France is Paris.",
                "It's what they'd said: \"we'll see, you've won, I'm sure they're late, don't you think?\"",
                "IT'S WHAT THEY'D SAID; WE'LL SEE, YOU'VE WON, I'M SURE THEY'RE LATE, DON'T.",
                "A sentence  with two  spaces.   And three. — and – dashes … and “quotes” ‘too’.",
                "naïve café résumé Zürich Ångström façade señor coöperate",
            ]),
        ),
        (
            "code",
            of(&[
                "fn main() {\n    let x: Vec<u32> = (0..10).map(|n| n * 2).collect();\n\tprintln!(\"{x:?}\");\n}\n",
                "def f(a, *, b=None):\r\n    return {**a, 'k': [i**2 for i in range(10) if i != 3]}\r\n",
                "SELECT * FROM t WHERE id >= 10 AND name LIKE '%x%' -- comment\n;",
                "<div class=\"a b\">&nbsp;</div><!-- x --> https://example.com/a?b=c&d=%20#e user@example.org",
                "if (a&&b||!c) { x <<= 2; y ^= ~z; } // ==> <=> != === `$HOME` \\n @#$%^&*()_+-=[]{};:,./?",
            ]),
        ),
        (
            "scripts",
            of(&[
                "Москва — столица России. Жёлтый щенок съел объявление.",
                "中文没有空格，标点也不一样。「日本語」のテキスト、カタカナとひらがな。한국어 텍스트입니다.",
                "مرحبا بالعالم، كيف حالك؟ שלום עולם, מה שלומך? ١٢٣ ۴۵۶",
                "नमस्ते दुनिया। বাংলা লেখা। தமிழ் உரை. ไทยไม่มีช่องว่าง ខ្មែរ မြန်မာ ქართული հայերեն አማርኛ",
                "Ελληνικά: Η γρήγορη αλεπού. Tiếng Việt có dấu. Türkçe İıŞş. Íslenska þæð. ʻŌlelo Hawaiʻi",
            ]),
        ),
        ("emoji", of(&["👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ❤️ ☺ 🧑🏿‍🚀a1️⃣2️⃣ ©®™ ← → ⇒ ∑∫√≠ ½ ² ³ ① Ⅷ ㊙"])),
        (
            "combining marks",
            of(&[
                "e\u{301}le\u{300}ve n\u{303} a\u{30a}\u{323}x\u{336}y\u{336} Z\u{351}\u{36b}\u{343}a\u{328}l\u{334}g\u{321}o",
                "\u{301}leading mark, \u{94d} virama, \u{20dd}circle, a\u{200c}b\u{200d}c\u{ad}d\u{2060}e",
            ]),
        ),
        (
            "numbers",
            of(&[
                "0 1 12 123 1234 12345 123456 1234567 3.14159 -42 1,000,000 1e-9 0x1F 2026-11-23 12:34:56 v1.2.3 a1b22c333",
                "1  2   3 4\t5 6\n7 ½⅓ ١٢٣٤٥ ४५६ 〇一二三 ⅧⅨ ²³ 100% $5.00 #1 (2) [3]",
            ]),
        ),
        (
            "whitespace",
            of(&[
                "  leading",
                "trailing  ",
                "   ",
                "\t\t\tx",
                "a\tb \t c",
                "a \n b\n \nc\n\n\nd\n\n  e",
                "x\r\ny\r\n\r\n  z\r\r",
                " \n",
                "\n ",
                "a  ",
                "a \u{a0}\u{a0}b\u{2003}c\u{3000}d\u{2028}e\u{85}f\u{b}g\u{c}h",
                "  5  6",
                "  !  ?",
                "a                                                                                b",
                "\u{2009}\u{2009}x \u{200b}y\u{feff}z",
            ]),
        ),
        (
            "control characters",
            of(&[
                "a\u{0}b\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}\u{7}\u{8}c\u{e}\u{f}\u{10}\u{11}\u{12}\u{13}\u{14}\u{15}\u{16}\u{17}",
                "\u{1b}[31mred\u{1b}[0m \u{18}\u{19}\u{1a}\u{1c}\u{1d}\u{1e}\u{1f}\u{7f}\u{80}\u{9f}",
                "!\u{4}! ?\u{6}\u{6}? the\u{13}the \u{14} \u{16}x\u{1d}\u{1d}\u{1d}",
                "..\u{4}..\u{1d}..",
            ]),
        ),
        (
            "private and far planes",
            of(&[
                "\u{e000}\u{f8ff}\u{f0000}\u{10fffd} !\u{50000}! a\u{90000}b \u{40000}\u{bffff}\u{80000} \u{1f000}\u{2ffff}",
            ]),
        ),
        (
            "special tokens",
            of(&[
                "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
                "<|im_start|>",
                "<|im_end|><|im_end|>",
                "x<|endoftext|>y <|endoftext|> z",
                "< |im_start|> <|im_start |> <|IM_START|> <|im_start|",
                "<s>a</s> <unk> [INST]",
                "<repo_name>a/b<file_sep>c.py\n<jupyter_code>1 + 1<jupyter_output>2<empty_output>",
                "<0x0A> <0x41>",
            ]),
        ),
        (
            "long words",
            vec![
                "a".repeat(3000),
                "ab".repeat(1500),
                "é".repeat(1000),
                "漢字".repeat(500),
                "supercalifragilistic".repeat(100),
                "=".repeat(700),
                "1".repeat(500),
                " ".repeat(700),
                "\n".repeat(300),
                "!?".repeat(400),
                "👍".repeat(200),
            ],
        ),
    ]
}

/// All texts of [`groups`], one after the other.
pub(crate) fn whole() -> String {
    groups()
        .into_iter()
        .filter(|(name, _)| *name != "long words")
        .flat_map(|(_, texts)| texts)
        .collect::<Vec<_>>()
        .join("\n")
}

/// A text of up to `len_max` characters from all of Unicode, with runs of the same kind, from a seed.
pub(crate) fn random(seed: u64, len_max: u64) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    };
    // First and last of blocks whose characters have been assigned for long: tables of different Unicode versions
    // differ on the rest, and nobody's text has it.
    let blocks: [(u32, u32); 22] = [
        (0x20, 0x7E),
        (0x20, 0x7E),
        (0x61, 0x7A),
        (0x30, 0x39),
        (0x20, 0x20),
        (0x9, 0xD),
        (0x0, 0x1F),
        (0x21, 0x2F),
        (0xA0, 0xFF),
        (0x100, 0x17F),
        (0x300, 0x36F),
        (0x391, 0x3A1),
        (0x410, 0x44F),
        (0x5D0, 0x5EA),
        (0x621, 0x64A),
        (0x905, 0x939),
        (0xE01, 0xE3A),
        (0x2000, 0x206F),
        (0x3041, 0x3096),
        (0x4E00, 0x9FA5),
        (0xAC00, 0xD7A3),
        (0x1F600, 0x1F64F),
    ];
    let length = 1 + next(len_max);
    let mut text = String::new();
    while (text.chars().count() as u64) < length {
        let (first, last) = blocks[next(blocks.len() as u64) as usize];
        for _ in 0..=next(6) {
            let code = first + next(u64::from(last - first) + 1) as u32;
            text.extend(char::from_u32(code).filter(|c| *c != '\u{2065}'));
        }
    }
    text
}
