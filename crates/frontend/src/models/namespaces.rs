//! Which Dynamo namespaces a frontend serves.
//!
//! A graph's frontend is told a prefix: its workers' namespaces are the prefix itself, or go on behind a hyphen with the
//! generation of the workers, so that an update's old and new workers are seen together. Source: Dynamo,
//! lib/runtime, "NamespaceFilter".

/// Dynamo's word for all namespaces.
const GLOBAL: &str = "dynamo";
/// Digits of a generation's hash, as the operator writes it.
const GENERATION_DIGITS: usize = 8;
/// The generation of workers that were there before generations were.
const LEGACY_GENERATION: &str = "legacy";

/// A choice of namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Namespaces {
    /// Every one.
    #[default]
    All,
    /// This one.
    Exact(String),
    /// This one and those that go on behind it with a hyphen.
    Prefix(String),
    /// This one and its worker generations; not those of a graph whose name begins so.
    Generations(String),
}

impl Namespaces {
    /// What was asked for. A prefix counts before a namespace; nothing and `dynamo` are all.
    pub(crate) fn of(exact: Option<&str>, prefix: Option<&str>, is_strict: bool) -> Self {
        let Some(asked) = prefix.or(exact).filter(|name| !name.is_empty() && *name != GLOBAL) else { return Self::All };
        match (prefix.is_some(), is_strict) {
            (false, _) => Self::Exact(asked.to_owned()),
            (true, false) => Self::Prefix(asked.to_owned()),
            (true, true) => Self::Generations(asked.to_owned()),
        }
    }

    /// Whether workers of this namespace are served.
    pub(crate) fn admit(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Exact(asked) => namespace == asked,
            Self::Prefix(asked) => namespace
                .strip_prefix(asked.as_str())
                .is_some_and(|rest| asked.ends_with('-') || rest.is_empty() || rest.starts_with('-')),
            Self::Generations(asked) => match namespace.strip_prefix(asked.as_str()) {
                Some("") => true,
                Some(rest) => rest.strip_prefix('-').is_some_and(is_generation),
                None => false,
            },
        }
    }
}

fn is_generation(suffix: &str) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    suffix == LEGACY_GENERATION || (suffix.len() == GENERATION_DIGITS && suffix.bytes().all(is_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(asked: (Option<&str>, Option<&str>, bool), admitted: &[&str], left_out: &[&str]) {
        let namespaces = Namespaces::of(asked.0, asked.1, asked.2);
        for namespace in admitted {
            assert!(namespaces.admit(namespace), "{asked:?} leaves out {namespace}");
        }
        for namespace in left_out {
            assert!(!namespaces.admit(namespace), "{asked:?} admits {namespace}");
        }
    }

    #[test]
    fn nothing_and_the_global_word_are_all() {
        let some = ["dynamo", "ml-chat", ""];
        for asked in [(None, None), (Some("dynamo"), None), (Some("x"), Some("dynamo")), (Some("x"), Some(""))] {
            check((asked.0, asked.1, false), &some, &[]);
            check((asked.0, asked.1, true), &some, &[]);
        }
    }

    #[test]
    fn a_prefix_counts_before_a_namespace_and_ends_at_a_hyphen() {
        check((Some("ml-chat"), None, true), &["ml-chat"], &["ml-chat-1a2b3c4d", "ml"]);
        let generations = ["ml-chat", "ml-chat-1a2b3c4d"];
        check((Some("ml-chat"), Some("ml-chat"), false), &generations, &["ml-chat2", "ml-cha"]);
        check((None, Some("ml-chat-"), false), &["ml-chat-1a2b3c4d"], &["ml-chat2-x"]);
    }

    #[test]
    fn strictly_only_generations_follow_the_prefix() {
        let others = ["ml-chat-bot", "ml-chat-bot-1a2b3c4d", "ml-chat-1A2B3C4D", "ml-chat-1a2b3c4", "ml-chat2"];
        check((None, Some("ml-chat"), false), &others[..4], &others[4..]);
        check((None, Some("ml-chat"), true), &["ml-chat", "ml-chat-1a2b3c4d", "ml-chat-legacy"], &others);
    }
}
