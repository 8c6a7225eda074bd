//! Flags of `dynamo.mocker` that the mock engine cannot honour: refused by name, with the reason.

/// A flag that is refused, unless its value is the one that changes nothing.
struct Refused {
    /// Its name, or the beginning of several when it ends with `-`.
    name: &'static str,
    /// The value that is what this engine does anyway.
    harmless: Option<&'static str>,
    /// Why it is refused, and what to do.
    why: &'static str,
}

const fn refused(name: &'static str, harmless: Option<&'static str>, why: &'static str) -> Refused {
    Refused { name, harmless, why }
}

const AIS: &str = "needs NVIDIA's aisimulate, which is not there; give --planner-profile-data or no model";
const AIS_MEMORY: &str = "estimates the KV blocks with aisimulate, which is not there; give --num-gpu-blocks-override";
const DISAGGREGATED: &str = "prefill and decode workers apart are not there yet; leave it out";
const ONE_SCHEDULER: &str = "the mock engine schedules as vLLM does; leave it out";
const ZMQ: &str = "KV events travel on the event plane, where routers listen; leave it out";

const REFUSED: &[Refused] = &[
    refused("ais-", None, AIS),
    refused("aic-", None, AIS),
    refused("gpu-memory-utilization", None, AIS_MEMORY),
    refused("mem-fraction-static", None, AIS_MEMORY),
    refused("free-gpu-memory-fraction", None, AIS_MEMORY),
    refused("data-parallel-size", Some("1"), "a worker has one rank; give --num-workers for several in one process"),
    refused("engine-type", Some("vllm"), ONE_SCHEDULER),
    refused("sglang-", None, ONE_SCHEDULER),
    refused("trtllm-", None, ONE_SCHEDULER),
    refused("disaggregation-mode", Some("agg"), DISAGGREGATED),
    refused("is-prefill-worker", None, DISAGGREGATED),
    refused("is-decode-worker", None, DISAGGREGATED),
    refused("bootstrap-ports", None, DISAGGREGATED),
    refused("kv-transfer-", None, DISAGGREGATED),
    refused("kv-bytes-per-token", None, DISAGGREGATED),
    refused("kv-cache-dtype", Some("auto"), DISAGGREGATED),
    refused("num-host-blocks", None, "the mock engine has no tier of blocks in host memory; leave it out"),
    refused("host-offload-", None, "the mock engine has no tier of blocks in host memory; leave it out"),
    refused("zmq-kv-events-ports", None, ZMQ),
    refused("zmq-replay-ports", None, ZMQ),
    refused("response-plane", Some("tcp"), "answers travel over TCP; leave it out"),
    refused("reasoning", None, "the mock engine's text has no thinking part; leave it out"),
    refused("response-replay-trace-path", None, "the mock engine makes its tokens from its seed; leave it out"),
    refused("extra-engine-args", None, "write the flags themselves in place of the file"),
    refused("router-", None, "routing is the frontend's; give it the flag"),
];

/// Takes out of `words` what changes nothing, and gives the rest.
///
/// # Errors
/// The first flag that the mock engine cannot honour, as written, and why.
pub(crate) fn check(words: &[String]) -> Result<Vec<String>, (String, &'static str)> {
    let mut rest = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let (name, written) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let name = name.trim_start_matches('-').replace('_', "-");
        let Some(flag) = REFUSED.iter().find(|flag| is(flag.name, &name)).filter(|_| word.starts_with("--")) else {
            rest.push(word.clone());
            continue;
        };
        let value = written.or_else(|| words.next_if(|next| !next.starts_with("--")).cloned());
        if value.is_none() || value.as_deref() != flag.harmless {
            let shown = value.map_or_else(String::new, |value| format!(" {value}"));
            return Err((format!("--{name}{shown}"), flag.why));
        }
    }
    Ok(rest)
}

fn is(refused: &str, name: &str) -> bool {
    name == refused || (refused.ends_with('-') && name.starts_with(refused))
}

#[cfg(test)]
mod tests {
    use super::check;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_flag_that_cannot_be_honoured_is_named_with_the_reason() {
        for (line, flag, part) in [
            ("--ais-perf-model", "--ais-perf-model", "aisimulate"),
            ("--aic-tp-size 4", "--aic-tp-size 4", "aisimulate"),
            ("--data_parallel_size=2", "--data-parallel-size 2", "--num-workers"),
            ("--x 1 --engine-type sglang", "--engine-type sglang", "vLLM"),
            ("--disaggregation-mode prefill", "--disaggregation-mode prefill", "prefill"),
            ("--is-prefill-worker", "--is-prefill-worker", "prefill"),
            ("--num-host-blocks 7", "--num-host-blocks 7", "host"),
            ("--extra-engine-args f.json", "--extra-engine-args f.json", "themselves"),
        ] {
            let (shown, why) = check(&words(line)).expect_err(line);
            assert_eq!(shown, flag);
            assert!(why.contains(part), "{line}: {why}");
        }
    }

    #[test]
    fn a_value_that_changes_nothing_is_taken_and_strangers_are_left() {
        let line = "--data-parallel-size 1 --tp 2 --engine-type=vllm --disaggregation-mode agg --enforce-eager";
        assert_eq!(check(&words(line)), Ok(words("--tp 2 --enforce-eager")));
    }
}
