//! What a client sends: bodies of both endpoints, down to what a worker would get.

use frontend::openai::{ApiError, parse_chat, parse_completion};
use frontend::preprocess::{ModelFiles, ModelText, Prepared};
use protocol::discovery::Codec;
use protocol::request::PreprocessedRequest;
use std::path::Path;
use std::sync::LazyLock;
use std::time::UNIX_EPOCH;

/// Control tokens of the model, which only a template may write: `<|im_start|>` and `<|im_end|>`.
const CONTROL: [u32; 2] = [1, 2];

/// The small model that the frontend's tests have: byte-level BPE, ChatML. Its context is so long that length refuses
/// nothing here.
pub static MODEL: LazyLock<ModelText> = LazyLock::new(|| {
    // From the fuzz crate, and from the frontend's own tests, which run the same entries.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["tests/data/tiny-bpe", "../crates/frontend/tests/data/tiny-bpe"].map(|folder| here.join(folder));
    let folder = folders.iter().find(|folder| folder.exists()).unwrap();
    let files = ModelFiles {
        tokenizer: folder.join("tokenizer.json"),
        tokenizer_config: Some(folder.join("tokenizer_config.json")),
        config: Some(folder.join("config.json")),
        generation_config: Some(folder.join("generation_config.json")),
        chat_template: None,
    };
    ModelText::load("tiny", &files, Some(1 << 20), None).unwrap()
});

/// A chat: refused with a 400 that says why, or lowered; control tokens are the template's alone.
pub fn chat_body(bytes: &[u8]) {
    let request = match parse_chat(bytes) {
        Ok(request) => request,
        Err(error) => return refused(&error),
    };
    match MODEL.prepare_chat(&request, UNIX_EPOCH) {
        Err(error) => refused(&error),
        Ok(prepared) => {
            lowered(&prepared);
            let nvext = &request.common.nvext;
            if nvext.token_data.is_none() && nvext.use_raw_prompt != Some(true) {
                let ids = &prepared.request.token_ids;
                let [starts, ends] = CONTROL.map(|token| ids.iter().filter(|&&id| id == token).count());
                // One pair a message, one for the system prompt that the template adds, one open head at the end.
                let messages = request.messages.len();
                assert!(starts <= messages + 2 && ends <= messages + 1, "a message wrote a control token");
            }
        }
    }
}

/// A completion: refused with a 400 that says why, or lowered.
pub fn completion_body(bytes: &[u8]) {
    let request = match parse_completion(bytes) {
        Ok(request) => request,
        Err(error) => return refused(&error),
    };
    match MODEL.prepare_completion(&request) {
        Err(error) => refused(&error),
        Ok(prepared) => prepared.iter().for_each(lowered),
    }
}

fn refused(error: &ApiError) {
    assert_eq!(error.status, 400);
    assert!(!error.message.is_empty() && error.message.len() < 64 << 10, "{} bytes of reason", error.message.len());
    let body: serde_json::Value = serde_json::from_slice(&error.body()).unwrap();
    assert_eq!(body["error"]["message"], error.message.as_str());
}

/// What a worker would get decodes to the same.
fn lowered(prepared: &Prepared) {
    assert!(!prepared.request.token_ids.is_empty());
    let wire = Codec::Msgpack.encode(&prepared.request).unwrap();
    let again: PreprocessedRequest = Codec::Msgpack.decode(&wire).unwrap();
    assert_eq!(Codec::Msgpack.encode(&again).unwrap(), wire);
}
