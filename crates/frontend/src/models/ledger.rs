//! What discovery says, put in order: for each model name the accepted card and its workers, and who is left out. Pure.

use super::namespaces::Namespaces;
use protocol::card::ModelCard;
use protocol::discovery::{EndpointRecord, ModelRecord};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which workers are meant for this frontend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    pub(crate) namespaces: Namespaces,
    pub(crate) model_name: Option<String>,
}

impl Scope {
    fn admits(&self, record: &ModelRecord) -> bool {
        self.namespaces.admit(&record.namespace)
            && self.model_name.as_ref().is_none_or(|name| *name == record.card_json.display_name)
    }
}

/// A worker that is in discovery and serves nothing here, and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct LeftOut {
    pub(crate) model: String,
    pub(crate) worker_id: String,
    pub(crate) reason: String,
}

/// One model name as the ledger sees it.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) card: Arc<ModelCard>,
    pub(crate) identity: Identity,
    /// Workers with both records, in the order of their cards' arrival.
    pub(crate) members: Vec<(Arc<EndpointRecord>, Arc<ModelCard>)>,
}

/// What must be equal for workers to serve one name together: see [`identity`].
pub(crate) type Identity = blake3::Hash;

/// The records, and the order in which cards came.
#[derive(Default)]
pub(crate) struct Ledger {
    scope: Scope,
    /// By the name of their key, which is `namespace/component/endpoint/instance` for both kinds.
    endpoints: BTreeMap<String, Arc<EndpointRecord>>,
    cards: BTreeMap<String, Announced>,
    arrivals: u64,
}

struct Announced {
    worker_id: String,
    card: Arc<ModelCard>,
    arrival: u64,
}

impl Ledger {
    pub(crate) fn new(scope: Scope) -> Self {
        Self { scope, ..Self::default() }
    }

    /// Takes over an endpoint record.
    pub(crate) fn put_endpoint(&mut self, key: String, record: EndpointRecord) {
        self.endpoints.insert(key, Arc::new(record));
    }

    pub(crate) fn remove_endpoint(&mut self, key: &str) {
        self.endpoints.remove(key);
    }

    /// Takes over a model record; one that is not meant for this frontend, or is a LoRA adapter, is skipped.
    pub(crate) fn put_model(&mut self, key: String, record: ModelRecord) {
        if record.model_suffix.is_some() || !self.scope.admits(&record) {
            return;
        }
        // A worker that changes its card goes to the end of the line, so that one restart cannot evict the others.
        let same = self.cards.get(&key).filter(|known| identity(&known.card) == identity(&record.card_json));
        let arrival = same.map_or(self.arrivals, |known| known.arrival);
        self.arrivals += 1;
        let worker_id = record.instance_id.to_string();
        self.cards.insert(key, Announced { worker_id, card: Arc::new(record.card_json), arrival });
    }

    pub(crate) fn remove_model(&mut self, key: &str) {
        self.cards.remove(key);
    }

    /// The groups by model name, and who is left out of them.
    pub(crate) fn groups(&self) -> (BTreeMap<String, Group>, Vec<LeftOut>) {
        let mut in_order: Vec<(&String, &Announced)> = self.cards.iter().collect();
        in_order.sort_by_key(|(_, announced)| announced.arrival);
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        let mut left_out = Vec::new();
        for (key, announced) in in_order {
            let card = &announced.card;
            let mut leave_out = |reason: String| {
                let worker_id = announced.worker_id.clone();
                left_out.push(LeftOut { model: card.display_name.clone(), worker_id, reason });
            };
            if let Some(reason) = unusable(card) {
                leave_out(reason);
                continue;
            }
            let own = identity(card);
            let group = groups.entry(card.display_name.clone()).or_insert_with(|| Group {
                card: card.clone(),
                identity: own,
                members: Vec::new(),
            });
            if group.identity != own {
                leave_out(format!(
                    "its card differs from the first one of this name in {}",
                    differences(&group.card, card)
                ));
                continue;
            }
            let Some(endpoint) = self.endpoints.get(key) else { continue };
            group.members.push((endpoint.clone(), card.clone()));
        }
        (groups, left_out)
    }
}

/// Why a card cannot be served here at all.
fn unusable(card: &ModelCard) -> Option<String> {
    if card.kv_cache_block_size == 0 {
        return Some("kv_cache_block_size is 0".into());
    }
    if card.model_input != "Tokens" {
        return Some(format!("model_input is {:?}; only \"Tokens\" is served", card.model_input));
    }
    match card.worker_type.as_deref() {
        None | Some("aggregated") => {}
        Some(other) => return Some(format!("worker_type is {other:?}; only \"aggregated\" is served yet")),
    }
    let offered = ["Chat", "Completions"];
    let any = card.model_type.split('|').any(|word| offered.contains(&word.trim()));
    (!any).then(|| format!("model_type is {:?}; only Chat and Completions are served", card.model_type))
}

/// BLAKE3 over what decides the tokens of a prompt and the blocks of a cache.
///
/// Unlike the stock checksum it leaves `source_path` out: the same files under two folders are the same model.
pub(crate) fn identity(card: &ModelCard) -> Identity {
    let mut hasher = blake3::Hasher::new();
    for (name, value) in facts(card) {
        for part in [name, value.as_str()] {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
    }
    hasher.finalize()
}

/// The names of the facts in which two cards differ.
fn differences(first: &ModelCard, second: &ModelCard) -> String {
    let differing = facts(first).into_iter().zip(facts(second)).filter(|(a, b)| a.1 != b.1);
    let told: Vec<String> = differing.map(|((name, a), (_, b))| format!("{name} ({a} against {b})")).collect();
    told.join(", ")
}

fn facts(card: &ModelCard) -> [(&'static str, String); 9] {
    let formatter = |formatter: &Option<protocol::card::PromptFormatter>| {
        use protocol::card::PromptFormatter as P;
        formatter.as_ref().map_or(String::new(), |formatter| match formatter {
            P::HfTokenizerConfigJson(file) | P::HfChatTemplateJson { file, .. } | P::HfChatTemplate { file, .. } => {
                file.checksum.clone()
            }
        })
    };
    let tokenizer = card.tokenizer.as_ref().map_or(String::new(), |kind| match kind {
        protocol::card::TokenizerKind::HfTokenizerJson(file) | protocol::card::TokenizerKind::TikTokenModel(file) => {
            file.checksum.clone()
        }
    });
    let config = card.model_info.as_ref().map_or(String::new(), |info| match info {
        protocol::card::ModelInfo::HfConfigJson(file) => file.checksum.clone(),
    });
    let generation = card.gen_config.as_ref().map_or(String::new(), |config| match config {
        protocol::card::GenConfig::HfGenerationConfigJson(file) => file.checksum.clone(),
    });
    let context = card.runtime_config.context_length.unwrap_or(card.context_length);
    [
        ("config", config),
        ("tokenizer", tokenizer),
        ("prompt_formatter", formatter(&card.prompt_formatter)),
        ("chat_template_file", formatter(&card.chat_template_file)),
        ("gen_config", generation),
        ("context_length", context.to_string()),
        ("kv_cache_block_size", card.kv_cache_block_size.to_string()),
        ("model_type", card.model_type.clone()),
        ("aliases", card.aliases.join(",")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::discovery::RequestTransport;
    use serde_json::json;

    fn endpoint(instance: u64) -> EndpointRecord {
        serde_json::from_value(json!({"namespace":"dynamo","component":"backend","endpoint":"generate",
            "instance_id":instance,"transport":{"tcp":format!("127.0.0.1:1/{instance:x}/dynamo/backend/generate")}}))
        .unwrap()
    }

    type Change<'a> = &'a dyn Fn(&mut ModelCard);

    fn model(instance: u64, change: Change<'_>) -> ModelRecord {
        let mut card: ModelCard =
            serde_json::from_value(json!({"display_name":"m","slug":"m","kv_cache_block_size":16,
            "migration_limit":0,"model_type":"Chat | Completions","model_input":"Tokens"}))
            .unwrap();
        change(&mut card);
        ModelRecord {
            namespace: "dynamo".into(),
            component: "backend".into(),
            endpoint: "generate".into(),
            instance_id: protocol::ids::InstanceId(instance),
            card_json: card,
            model_suffix: None,
        }
    }

    fn ledger(cards: &[(u64, Change<'_>)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (instance, change) in cards {
            ledger.put_endpoint(instance.to_string(), endpoint(*instance));
            ledger.put_model(instance.to_string(), model(*instance, change));
        }
        ledger
    }

    fn members(ledger: &Ledger) -> Vec<u64> {
        let (groups, _) = ledger.groups();
        groups.get("m").map_or(vec![], |group| group.members.iter().map(|(e, _)| e.instance_id.0).collect())
    }

    #[test]
    fn the_first_card_wins_and_a_differing_one_is_left_out_with_the_field_that_differs() {
        let mut ledger = ledger(&[(9, &|_| ()), (3, &|card| card.kv_cache_block_size = 32), (4, &|_| ())]);
        assert_eq!(members(&ledger), [9, 4]);
        let (_, left_out) = ledger.groups();
        assert_eq!(left_out.len(), 1);
        assert_eq!(left_out[0].worker_id, "3");
        assert!(left_out[0].reason.contains("kv_cache_block_size (16 against 32)"), "{}", left_out[0].reason);
        ledger.remove_model("9");
        assert_eq!(members(&ledger), [3], "when the first leaves, the next card in line is taken");
    }

    #[test]
    fn the_same_files_under_another_folder_and_other_limits_are_the_same_model() {
        let other: Change<'_> = &|card| {
            card.source_path = Some("/elsewhere".into());
            card.runtime_config.max_num_seqs = Some(1);
            card.migration_limit = 7;
        };
        assert_eq!(members(&ledger(&[(1, &|_| ()), (2, other)])), [1, 2]);
    }

    #[test]
    fn a_card_without_an_endpoint_is_known_but_has_no_worker() {
        let mut ledger = ledger(&[(1, &|_| ())]);
        ledger.remove_endpoint("1");
        let (groups, _) = ledger.groups();
        assert!(groups["m"].members.is_empty());
    }

    #[test]
    fn cards_that_cannot_be_served_say_why() {
        let check = |change: Change<'_>, why: &str| {
            let (groups, left_out) = ledger(&[(1, change)]).groups();
            assert!(groups.is_empty());
            assert!(left_out[0].reason.contains(why), "{}", left_out[0].reason);
        };
        check(&|card| card.kv_cache_block_size = 0, "kv_cache_block_size");
        check(&|card| card.model_input = "Text".into(), "model_input");
        check(&|card| card.worker_type = Some("prefill".into()), "worker_type");
        check(&|card| card.model_type = "Embedding".into(), "model_type");
    }

    #[test]
    fn a_worker_that_takes_requests_over_nats_is_one_like_any_other() {
        let mut ledger = ledger(&[(1, &|_| ()), (2, &|_| ())]);
        let mut nats = endpoint(1);
        nats.transport = RequestTransport::NatsTcp("dynamo_backend.generate-1".into());
        ledger.put_endpoint("1".into(), nats);
        assert_eq!(members(&ledger), [1, 2]);
        assert!(ledger.groups().1.is_empty());
    }

    #[test]
    fn only_the_namespaces_that_were_asked_for_are_served() {
        let scope = |namespace: Option<&str>, prefix: Option<&str>| Scope {
            namespaces: Namespaces::of(namespace, prefix, false),
            model_name: None,
        };
        let check = |scope: Scope, expected: &[u64]| {
            let mut ledger = Ledger::new(scope);
            ledger.put_endpoint("1".into(), endpoint(1));
            ledger.put_model("1".into(), model(1, &|_| ()));
            assert_eq!(members(&ledger), expected);
        };
        check(scope(None, None), &[1]);
        check(scope(Some("dynamo"), None), &[1]);
        check(scope(Some("other"), None), &[]);
        check(scope(None, Some("dynamo")), &[1]);
        check(scope(None, Some("prod")), &[]);
    }
}
