//! Events over NATS core: all publishers of an endpoint send to one subject, and the server gives every message to
//! every subscriber. No header, no reply, no queue group, no stream.
//!
//! Source: Dynamo 1.6.1 on the wire, §5.2.

mod hub;
mod outbox;
mod publisher;
mod subscriber;

pub(crate) use hub::Hub;
pub(super) use publisher::Publisher;
pub(super) use subscriber::Subscriber;

use super::EventError;

/// `prefix.topic`, when it is one subject and no pattern: a record may come from anybody who can write to discovery.
fn subject_of(prefix: &str, topic: &str) -> Result<String, EventError> {
    let subject = format!("{prefix}.{topic}");
    let plain = |token: &str| {
        !token.is_empty() && !token.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>'))
    };
    if subject.split('.').all(plain) && !subject.starts_with(['$', '_']) {
        Ok(subject)
    } else {
        Err(EventError::Subject { subject })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_cannot_make_us_listen_to_more_than_one_subject() {
        let prefix = "namespace.dynamo.component.backend.endpoint.generate";
        assert_eq!(subject_of(prefix, "kv-events").unwrap(), format!("{prefix}.kv-events"));
        for (prefix, topic) in [(">", "x"), ("a.*", "x"), ("", "x"), ("a..b", "x"), ("a b", "x"), ("a", ""), ("a", ">")]
        {
            assert!(subject_of(prefix, topic).is_err(), "{prefix} {topic}");
        }
        assert!(subject_of("$SYS", "x").is_err() && subject_of("_INBOX.x", "y").is_err());
    }
}
