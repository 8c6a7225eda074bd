//! Conditions, and since when each has been what it is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What one condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Type.
    pub about: &'static str,
    /// `True` or `False`.
    pub is_true: bool,
    /// One word for programs.
    pub reason: &'static str,
    /// A sentence for people: what is wrong and what to do.
    pub message: String,
}

/// The conditions that `said` makes of `before`. A condition keeps its time for as long as it keeps its status; what
/// others wrote stays.
pub fn said(before: &[Condition], said: Vec<Said>, generation: Option<i64>, now: &Time) -> Vec<Condition> {
    let mut all: Vec<Condition> =
        before.iter().filter(|c| !said.iter().any(|said| said.about == c.type_)).cloned().collect();
    for said in said {
        let status = if said.is_true { "True" } else { "False" };
        let same = before.iter().find(|c| c.type_ == said.about && c.status == status);
        all.push(Condition {
            type_: said.about.to_owned(),
            status: status.to_owned(),
            reason: said.reason.to_owned(),
            message: super::cut(said.message),
            observed_generation: generation,
            last_transition_time: same.map_or_else(|| now.clone(), |same| same.last_transition_time.clone()),
        });
    }
    // One order, or a status would seem changed when it is not.
    all.sort_by(|a, b| a.type_.cmp(&b.type_));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::conditions::{AVAILABLE, READY};

    fn time(text: &str) -> Time {
        Time(text.parse().unwrap())
    }

    fn ready(is_true: bool, message: &str) -> Said {
        Said { about: READY, is_true, reason: "updating", message: message.to_owned() }
    }

    #[test]
    fn the_time_moves_with_the_status_alone() {
        let (first, later) = (time("2026-01-01T00:00:00Z"), time("2026-01-02T00:00:00Z"));
        let one = said(&[], vec![ready(false, "a")], Some(1), &first);
        let two = said(&one, vec![ready(false, "b")], Some(2), &later);
        assert_eq!((two[0].message.as_str(), &two[0].last_transition_time), ("b", &first));
        let three = said(&two, vec![ready(true, "c")], Some(2), &later);
        assert_eq!(&three[0].last_transition_time, &later);
    }

    #[test]
    fn the_order_is_one_and_conditions_of_others_stay() {
        let now = time("2026-01-01T00:00:00Z");
        let theirs =
            Condition { type_: "Theirs".to_owned(), ..said(&[], vec![ready(true, "")], None, &now)[0].clone() };
        let available = Said { about: AVAILABLE, ..ready(true, "") };
        let all = said(&[theirs], vec![ready(true, ""), available], None, &now);
        assert_eq!(all.iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(), ["Available", "Ready", "Theirs"]);
    }
}
