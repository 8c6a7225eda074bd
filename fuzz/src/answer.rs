//! What an engine sends: any tokens in any pieces, raised to text.

use super::http::MODEL;
use frontend::openai::parse_chat;
use frontend::postprocess::{Finish, Raised, Raiser};
use frontend::preprocess::Prepared;
use protocol::output::{CompletionUsage, EngineOutput, FinishReason};
use std::time::UNIX_EPOCH;

/// The text of an answer does not depend on how its tokens are cut into outputs, and no stop string is in it.
///
/// The first byte says what the request asks for, the second how the tokens are cut; then come the tokens, two bytes each.
pub fn raised_answer(bytes: &[u8]) {
    let [wishes, cut, tokens @ ..] = bytes else { return };
    let stops: &[&str] = [&[][..], &["a"], &["ab", "the "], &["\u{e9}", "\n"]][usize::from(wishes & 3)];
    let fields = serde_json::json!({
        "model": "m", "messages": [{"role": "user", "content": "x"}], "stop": stops, "logprobs": wishes & 4 != 0,
        "include_stop_str_in_output": wishes & 8 != 0, "skip_special_tokens": wishes & 16 != 0,
        "min_tokens": u32::from(wishes >> 6), "ignore_eos": wishes & 32 != 0,
    });
    let request = parse_chat(fields.to_string().as_bytes()).unwrap();
    let prepared = MODEL.prepare_chat(&request, UNIX_EPOCH).unwrap();
    let tokens: Vec<u32> =
        tokens.chunks_exact(2).map(|pair| u32::from(u16::from_le_bytes([pair[0], pair[1]])) % 800).collect();
    let (whole, ended) = raise(&prepared, [tokens.as_slice()].into_iter());
    let pieces = tokens.chunks(usize::from(*cut % 7) + 1);
    assert_eq!(raise(&prepared, pieces), (whole.clone(), ended.clone()), "the pieces say something else");
    if ended == Some(Finish::Stop) && wishes & 8 == 0 && wishes >> 6 == 0 {
        assert!(stops.iter().all(|stop| !whole.contains(stop)), "a stop string leaked: {whole:?}");
    }
}

fn raise<'a>(prepared: &Prepared, pieces: impl Iterator<Item = &'a [u32]>) -> (String, Option<Finish>) {
    let mut raiser = Raiser::new(MODEL.tokenizer(), prepared);
    let (mut text, mut ended) = (String::new(), None);
    let mut take = |raised: Raised| {
        text.push_str(&raised.text);
        ended = ended.take().or(raised.finish);
        ended.is_some()
    };
    for piece in pieces {
        let mut output = EngineOutput::of_tokens(piece.to_vec());
        output.log_probs = Some(piece.iter().map(|&token| -f64::from(token)).collect());
        if take(raiser.push(&output)) {
            return (text, ended);
        }
    }
    take(raiser.push(&EngineOutput::finished(FinishReason::Length, CompletionUsage::default())));
    (text, ended)
}
