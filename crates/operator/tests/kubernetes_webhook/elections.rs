//! Elections over a real lease.

use crate::stage::{CAP, STAGE, on_stage};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use operator::leader::{LeaderConfig, elect};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[test]
fn of_five_that_want_the_lease_one_has_it_at_a_time_and_all_have_their_turn() {
    on_stage(async {
        let namespace = STAGE.namespace("lease").await;
        let (leading, stop) = (Arc::new(Mutex::new((0_u32, 0_u32))), CancellationToken::new());
        let mut all = Vec::new();
        for number in 0..5 {
            let (leading, stop, client) = (leading.clone(), stop.clone(), STAGE.client.clone());
            let mut config = LeaderConfig::new("turns", &namespace, format!("operator-{number}"));
            (config.duration, config.give_up) = (Duration::from_secs(30), Duration::from_secs(20));
            config.renew_every = Duration::from_millis(200);
            all.push(tokio::spawn(async move {
                let term = elect(&client, &config, &stop).await.unwrap();
                {
                    let mut leading = leading.lock();
                    *leading = (leading.0 + 1, leading.1 + 1);
                    assert_eq!(leading.0, 1, "two lead");
                }
                // Others ask many times meanwhile.
                assert!(tokio::time::timeout(Duration::from_secs(1), term.lost.cancelled()).await.is_err());
                assert!(term.is_held());
                leading.lock().0 -= 1;
                term.release().await;
            }));
        }
        for one in all {
            tokio::time::timeout(CAP, one).await.unwrap().unwrap();
        }
        assert_eq!(*leading.lock(), (0, 5));
        let lease = Api::<Lease>::namespaced(STAGE.client.clone(), &namespace).get("turns").await.unwrap();
        let spec = lease.spec.unwrap();
        assert_eq!((spec.lease_transitions, spec.holder_identity.unwrap_or_default().as_str()), (Some(4), ""));
    });
}
