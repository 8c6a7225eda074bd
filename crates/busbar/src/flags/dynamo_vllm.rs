//! The arguments of `dynamo.vllm` that `vllm serve` does not know. Pure.
//!
//! A manifest's line mixes both: what is vLLM's passes through, but for the few that would make it unreachable for its
//! own worker; of what is Dynamo's own, some has no meaning here and is
//! left out with a word, some asks for what this worker is not and is refused.
//!
//! Source: `--help` of `dynamo.vllm` 1.6.1.

/// What follows a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    One,
    Many,
}

use Takes::{Many, Nothing, One};

/// Left out: this worker does it by itself, or has nothing of the kind.
const LEFT_OUT: &[(&str, Takes)] = &[
    ("--connector", Many),
    ("--use-vllm-tokenizer", Nothing),
    ("--store-kv", One),
    ("--kv-state-endpoint", One),
    ("--response-plane", One),
    ("--durable-kv-events", Nothing),
    ("--fpm-trace", Nothing),
    ("--dump-config-to", One),
    ("--endpoint-types", One),
    ("--output-modalities", Many),
    ("--dyn-tool-call-parser", One),
    ("--dyn-reasoning-parser", One),
    ("--dyn-default-thinking-mode", One),
    ("--dyn-structural-tag", One),
    ("--exclude-tools-when-tool-choice-none", Nothing),
    ("--no-exclude-tools-when-tool-choice-none", Nothing),
    ("--model-express-url", One),
    ("--gms-shadow-mode", Nothing),
    ("--mm-prompt-template", One),
    ("--embedding-transfer-mode", One),
    ("--multimodal-embedding-cache-capacity-gb", One),
    ("--frontend-decoding", Nothing),
];

/// Refused, with what they ask for.
const REFUSED: &[(&str, &str)] = &[
    ("--is-prefill-worker", "a prefill worker of disaggregated serving"),
    ("--is-decode-worker", "a decode worker of disaggregated serving"),
    ("--headless", "a node of a vLLM that spans machines"),
    ("--route-to-encoder", "an encoder of its own"),
    ("--enable-multimodal", "multimodal input"),
    ("--custom-encoder-class", "an encoder of its own"),
    ("--embedding-worker", "embeddings"),
    ("--classify-worker", "classification"),
    ("--realtime", "the realtime API"),
    ("--benchmark-mode", "Dynamo's self-benchmark"),
    // The worker speaks to its vLLM over plain HTTP on this machine.
    ("--ssl-certfile", "a vLLM behind TLS"),
    ("--uds", "a vLLM behind a Unix socket"),
];

/// A flag whose value decides.
const DISAGGREGATION: &str = "--disaggregation-mode";

/// A manifest's arguments, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sorted {
    /// For `vllm serve`, in order.
    pub(crate) vllm: Vec<String>,
    /// Left out.
    pub(crate) left_out: Vec<String>,
    /// Flags that cannot be served, each with what it asks for.
    pub(crate) refused: Vec<(String, &'static str)>,
}

/// Sorts what is not a flag of our own.
pub(crate) fn sort(arguments: &[String]) -> Sorted {
    let mut sorted = Sorted::default();
    let mut words = arguments.iter().peekable();
    while let Some(word) = words.next() {
        let (flag, inline) = word.split_once('=').map_or((word.as_str(), None), |(flag, value)| (flag, Some(value)));
        let flag = spelled(flag);
        if flag == DISAGGREGATION {
            let value = inline.or_else(|| words.next().map(String::as_str)).unwrap_or_default();
            if matches!(value, "agg" | "aggregated" | "prefill_and_decode" | "none") {
                sorted.left_out.push(flag);
            } else {
                sorted.refused.push((format!("{flag} {value}"), "disaggregated serving"));
            }
        } else if let Some((_, what)) = REFUSED.iter().find(|(known, _)| *known == flag) {
            sorted.refused.push((flag, what));
        } else if let Some((_, takes)) = LEFT_OUT.iter().find(|(known, _)| *known == flag) {
            let values = if inline.is_some() { Nothing } else { *takes };
            while values != Nothing && words.next_if(|next| !next.starts_with('-')).is_some() && values == Many {}
            sorted.left_out.push(flag);
        } else {
            // One spelling, by which what is given is found again. What follows a dot is a key of JSON.
            let (name, rest) = word.split_at(word.find(['=', '.']).unwrap_or(word.len()));
            sorted.vllm.push(format!("{}{rest}", spelled(name)));
        }
    }
    sorted
}

/// argparse takes `_` for `-` in a flag.
fn spelled(flag: &str) -> String {
    if flag.starts_with("--") { flag.replace('_', "-") } else { flag.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, vllm: &str, left_out: &str, refused: &[&str]) {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let sorted = sort(&words(line));
        assert_eq!((sorted.vllm, sorted.left_out), (words(vllm), words(left_out)), "{line}");
        assert_eq!(sorted.refused.iter().map(|(flag, _)| flag.as_str()).collect::<Vec<_>>(), refused, "{line}");
    }

    #[test]
    fn vllms_own_flags_pass_in_order_and_dynamos_are_left_out_with_their_values() {
        check("--enforce-eager -tp 2 --dtype=auto", "--enforce-eager -tp 2 --dtype=auto", "", &[]);
        check(
            "--connector nixl lmcache --enforce-eager --dyn-tool-call-parser hermes --seed 3",
            "--enforce-eager --seed 3",
            "--connector --dyn-tool-call-parser",
            &[],
        );
        check(
            "--connector --seed 3 --dump_config_to=/x --fpm-trace 1",
            "--seed 3 1",
            "--connector --dump-config-to --fpm-trace",
            &[],
        );
        check("--disaggregation-mode agg --seed 3", "--seed 3", "--disaggregation-mode", &[]);
        check(
            "--kv_events_config={\"a_b\":1} --hf_overrides.rope_theta 3 a_b -cc.x_y=1",
            "--kv-events-config={\"a_b\":1} --hf-overrides.rope_theta 3 a_b -cc.x_y=1",
            "",
            &[],
        );
    }

    #[test]
    fn what_this_worker_is_not_is_refused_by_name() {
        check("--is-prefill-worker --seed 3", "--seed 3", "", &["--is-prefill-worker"]);
        check("--disaggregation-mode=prefill", "", "", &["--disaggregation-mode prefill"]);
        check("--enable_multimodal --headless", "", "", &["--enable-multimodal", "--headless"]);
        check("--ssl-keyfile k --ssl_certfile=c", "--ssl-keyfile k", "", &["--ssl-certfile"]);
    }
}
