//! Parts that the tests of `worker::model` share: a writer of GGUF files and texts of every kind.

#![allow(dead_code, reason = "each test binary uses some of the parts")]

pub(crate) mod corpus;
pub(crate) mod hub;

/// A GGUF in the making: metadata and tensors as the tests want them, valid or not.
#[derive(Clone, Default)]
pub(crate) struct GgufWriter {
    keys: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn text_bytes(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

impl GgufWriter {
    pub(crate) fn text(mut self, key: &str, value: &str) -> Self {
        self.keys.push((key.into(), 8, text_bytes(value)));
        self
    }

    pub(crate) fn number(mut self, key: &str, value: u32) -> Self {
        self.keys.push((key.into(), 4, value.to_le_bytes().into()));
        self
    }

    pub(crate) fn float(mut self, key: &str, value: f32) -> Self {
        self.keys.push((key.into(), 6, value.to_le_bytes().into()));
        self
    }

    pub(crate) fn flag(mut self, key: &str, value: bool) -> Self {
        self.keys.push((key.into(), 7, vec![value.into()]));
        self
    }

    fn array(mut self, key: &str, kind: u32, count: usize, elements: Vec<u8>) -> Self {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend_from_slice(&(count as u64).to_le_bytes());
        bytes.extend(elements);
        self.keys.push((key.into(), 9, bytes));
        self
    }

    pub(crate) fn texts<T: AsRef<str>>(self, key: &str, values: &[T]) -> Self {
        let elements = values.iter().flat_map(|value| text_bytes(value.as_ref())).collect();
        self.array(key, 8, values.len(), elements)
    }

    pub(crate) fn integers(self, key: &str, values: &[i32]) -> Self {
        let elements = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, 5, values.len(), elements)
    }

    pub(crate) fn floats(self, key: &str, values: &[f32]) -> Self {
        let elements = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, 6, values.len(), elements)
    }

    /// A tensor of f32.
    pub(crate) fn tensor(mut self, name: &str, dimensions: &[u64]) -> Self {
        let weights = dimensions.iter().product::<u64>();
        self.tensors.push((name.into(), dimensions.into(), 0, vec![0; weights as usize * 4]));
        self
    }

    /// The smallest llama that every reader takes for one.
    pub(crate) fn llama() -> Self {
        GgufWriter::default()
            .text("general.architecture", "llama")
            .text("general.name", "Test")
            .number("llama.context_length", 512)
            .number("llama.embedding_length", 8)
            .number("llama.block_count", 1)
            .number("llama.feed_forward_length", 16)
            .number("llama.attention.head_count", 2)
            .float("llama.attention.layer_norm_rms_epsilon", 1e-5)
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        const ALIGNMENT: usize = 32;
        let mut file = b"GGUF".to_vec();
        file.extend_from_slice(&3u32.to_le_bytes());
        file.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        file.extend_from_slice(&(self.keys.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.keys {
            file.extend(text_bytes(key));
            file.extend_from_slice(&kind.to_le_bytes());
            file.extend_from_slice(value);
        }
        let mut offset = 0usize;
        for (name, dimensions, kind, bytes) in &self.tensors {
            file.extend(text_bytes(name));
            file.extend_from_slice(&(dimensions.len() as u32).to_le_bytes());
            dimensions.iter().for_each(|d| file.extend_from_slice(&d.to_le_bytes()));
            file.extend_from_slice(&kind.to_le_bytes());
            file.extend_from_slice(&(offset as u64).to_le_bytes());
            offset += bytes.len().next_multiple_of(ALIGNMENT);
        }
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        for (_, _, _, bytes) in &self.tensors {
            file.extend_from_slice(bytes);
            file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        }
        file
    }
}

/// A small whole model: a byte-level vocabulary without merges, a template, one tensor.
pub(crate) fn tiny_gguf() -> GgufWriter {
    let mut tokens: Vec<String> = byte_alphabet().into_iter().map(String::from).collect();
    let mut types = vec![1; tokens.len()];
    for special in ["<|begin|>", "<|im_end|>"] {
        tokens.push(special.into());
        types.push(3);
    }
    GgufWriter::llama()
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "gpt-2")
        .texts("tokenizer.ggml.tokens", &tokens)
        .integers("tokenizer.ggml.token_type", &types)
        .texts::<&str>("tokenizer.ggml.merges", &[])
        .number("tokenizer.ggml.bos_token_id", 256)
        .number("tokenizer.ggml.eos_token_id", 257)
        .text("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}")
        .tensor("token_embd.weight", &[8, 258])
}

/// GPT-2's character for each byte, by byte.
pub(crate) fn byte_alphabet() -> Vec<char> {
    let mut next = 0x100u32;
    let mut of = |byte: u8| {
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).expect("a character")
    };
    (0..=255).map(&mut of).collect()
}
