//! Texts of every kind, on which two tokenizers must agree before the faster one is trusted.

/// Bytes of the long sample: over the sizes at which an encoder may change its ways (chunks, threads).
pub(crate) const LONG_LEN: usize = 48 * 1024;

const TEXTS: [&str; 31] = [
    "",
    " ",
    "a",
    "Hello, world!",
    "  leading and   inner and trailing spaces   ",
    "tabs\tand\t\ttabs\nline\n\nbreaks\r\nwindows\r\n\r\n",
    "\n\n\n   \n\t\n x",
    "The quick brown fox jumps over the lazy dog.",
    "don't we'll I'M they'VE it's 'quoted' ''double'' O'Neill's",
    "1 12 123 1234 12345 1234567890 3.14159 1,000,000 0x1F 1e-10 2026-11-23T20:30:20Z",
    "x = y + z; if (a != b) { return foo(a, b)[0]->bar; } // comment /* more */",
    "def f(x):\n    \"\"\"Doc.\"\"\"\n    return [i ** 2 for i in range(x) if i % 3 == 0]\n",
    "fn main() -> Result<(), Box<dyn std::error::Error>> {\n\tlet x: &'static str = \"é\";\n}\n",
    "<html><body class=\"a b\">&amp; &#39;</body></html>",
    "{\"key\": [1, 2.5, null, true], \"nested\": {\"a\": \"b\\n\"}}",
    "https://example.com/path/to?q=1&r=%20#frag user.name+tag@example.co.uk C:\\dir\\file.txt",
    "ALLCAPS CamelCase snake_case kebab-case SCREAMING_SNAKE mixedCASEword",
    "naïve café Zürich Ångström Łódź İstanbul ﬁne ﬂow straße ẞ",
    "e\u{301} n\u{303} a\u{308}\u{304} \u{1e9b}\u{323} combining against \u{e9} \u{f1}",
    "Привет, мир! Ελληνικά Հայերեն ქართული",
    "你好，世界！這是繁體中文。日本語のテキスト、カタカナ、ｱｲｳ。한국어 문장입니다.",
    "مرحبا بالعالم ١٢٣ שלום עולם \u{200f}rtl\u{200e} ھ",
    "नमस्ते दुनिया বাংলা தமிழ் ไทยไม่มีช่องว่าง ខ្មែរ မြန်မာ",
    "🦀 🚀🚀 👩‍👩‍👧‍👦 🇩🇪🇯🇵 👍🏽 ❤️ ☃ 😀text😀",
    "𝕳𝖊𝖑𝖑𝖔 𐍈 𠜎 \u{10ffff} math ∑∫√≠≤ ½ ² ₃ № ™",
    "\u{0}\u{1}\u{7f}\u{80}\u{ad}\u{200b}\u{feff}\u{2028}\u{3000}\u{a0} odd spaces and controls",
    "............ ------ ====== ~~~~ !!!??? ((([[[{{{ >>>>>> #### ``` ''' \"\"\" ***bold*** __x__",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft antidisestablishmentarianism",
    "<|im_start|>user\nhi<|im_end|>\n<|begin_of_text|><s>[INST] x [/INST]</s><|endoftext|><unk><pad><bos><eos>▁x",
    "                                                                                  deep indent",
];

/// The texts, the special tokens of this tokenizer inside text, and one long text made of all of them.
pub(crate) fn texts(special_tokens: &[String]) -> Vec<String> {
    let mut all: Vec<String> = TEXTS.iter().map(|text| (*text).to_owned()).collect();
    for token in special_tokens.iter().take(64) {
        all.push(format!("a{token}b {token} c\n{token}{token}"));
    }
    let mut long = String::with_capacity(LONG_LEN + 4096);
    let mut round = 0;
    while long.len() < LONG_LEN {
        for text in &all {
            long.push_str(text);
            // Each round joins the texts in its own way, so that no segment of the long text is like another.
            long.push_str(["", " ", "\n"][round % 3]);
            long.push_str(&round.to_string());
        }
        round += 1;
    }
    all.push(long);
    all
}
