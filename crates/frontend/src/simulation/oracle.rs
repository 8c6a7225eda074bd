//! What an undisturbed deployment says: the mock model's pure function, without a worker, a network or a clock.

use super::plan::Request;
use sim::tokens::{Context, MockModel, Vocabulary};
use worker::engine::mock::MockConfig;

/// Ids of the byte model's two special tokens.
const BEGIN: u32 = 256;
const END: u32 = 257;

/// The tokens of a request's prompt: bytes, and the byte model's template around those of a chat.
pub(super) fn prompt_tokens(request: &Request) -> Vec<u32> {
    let bytes = |text: &str| text.bytes().map(u32::from).collect::<Vec<u32>>();
    let prompt = bytes(&request.prompt);
    if !request.is_chat {
        return prompt;
    }
    [vec![BEGIN], bytes("user\n"), prompt, vec![END], bytes("\n"), vec![BEGIN], bytes("assistant\n")].concat()
}

/// The text of one choice.
pub(super) fn text(engine: &MockConfig, request: &Request, choice: u32) -> String {
    let vocabulary = Vocabulary::new(engine.tokens.clone()).unwrap();
    let model = MockModel { seed: engine.seed, vocabulary, eos_one_in: None };
    let mut context = Context::new(&model, request.seed.map(|seed| seed + i64::from(choice)));
    context.extend(&prompt_tokens(request));
    let mut said = || {
        let token = context.next(&model, None);
        context.push(token);
        char::from_u32(token).unwrap()
    };
    (0..request.max_tokens).map(|_| said()).collect()
}
