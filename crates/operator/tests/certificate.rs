//! Certificates renew themselves and are trusted all the while.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use operator::certificate::{AUTHORITY_LIFETIME, Material, SERVING_LIFETIME, renew, validity};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: Duration = Duration::from_secs(24 * 3600);
const NAME: &str = "busbar-operator-webhook.busbar-system.svc";

fn names() -> Vec<String> {
    vec![NAME.to_owned()]
}

/// 2026-11-28.
fn start() -> SystemTime {
    UNIX_EPOCH + 20_785 * DAY
}

fn made(found: Option<&Material>, at: SystemTime) -> Material {
    renew(found, &names(), at).unwrap().unwrap()
}

fn stays(found: &Material, names: &[String], at: SystemTime) -> bool {
    renew(Some(found), names, at).unwrap().is_none()
}

fn ders(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}

/// Whether a client that trusts `bundle` takes `certificate` at `at`.
fn is_trusted(bundle: &str, certificate: &str, at: SystemTime) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(ders(bundle));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let now = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap());
    let name = ServerName::try_from(NAME).unwrap();
    verifier.verify_server_cert(&ders(certificate)[0], &[], &name, &[], now).is_ok()
}

#[test]
fn validity_is_read_as_it_was_written_before_and_after_2050() {
    for (from, to) in [((2026, 11, 28), (2036, 11, 25)), ((2048, 2, 29), (2058, 3, 1)), ((2099, 12, 31), (2100, 3, 1))]
    {
        let mut params = rcgen::CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
        let (not_before, not_after) = (params.not_before.unix_timestamp(), params.not_after.unix_timestamp());
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let seconds = |time: SystemTime| i64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
        let read = validity(certificate.der()).unwrap();
        assert_eq!((seconds(read.0), seconds(read.1)), (not_before, not_after));
        for cut in 0..certificate.der().len().min(300) {
            validity(&certificate.der()[..cut]);
        }
    }
    assert!(validity(b"").is_none() && validity(b"\x30\x84\xff\xff\xff\xff").is_none());
}

#[test]
fn a_certificate_is_kept_for_two_thirds_of_its_life_and_then_signed_anew_by_the_same_authority() {
    let first = made(None, start());
    assert!(is_trusted(&first.bundle, &first.certificate, start()));
    assert!(stays(&first, &names(), start()));
    assert!(stays(&first, &names(), start() + SERVING_LIFETIME * 2 / 3 - DAY));
    let second = made(Some(&first), start() + SERVING_LIFETIME * 2 / 3 + DAY);
    assert_eq!((&second.bundle, &second.authority_key), (&first.bundle, &first.authority_key));
    assert_ne!(second.certificate, first.certificate);
    assert!(is_trusted(&first.bundle, &second.certificate, start() + SERVING_LIFETIME));
    assert!(!is_trusted(&first.bundle, &first.certificate, start() + SERVING_LIFETIME + DAY));
}

#[test]
fn over_thirty_years_every_certificate_is_trusted_by_the_bundle_before_and_after_each_change() {
    let mut now = start();
    let (mut current, mut authorities, mut certificates) = (made(None, now), 1, 1);
    while now < start() + 3 * AUTHORITY_LIFETIME {
        now += 5 * DAY;
        let Some(next) = renew(Some(&current), &names(), now).unwrap() else { continue };
        authorities += u32::from(next.authority_key != current.authority_key);
        certificates += u32::from(next.certificate != current.certificate);
        // Whoever has only the old bundle takes the new certificate, and whoever has the new takes the old.
        assert!(is_trusted(&current.bundle, &next.certificate, now), "new certificate, old bundle");
        assert!(is_trusted(&next.bundle, &current.certificate, now), "old certificate, new bundle");
        let valid = ders(&next.bundle).iter().all(|der| validity(der).unwrap().1 > now);
        assert!(valid && ders(&next.bundle).len() <= 2, "{} authorities", ders(&next.bundle).len());
        current = next;
    }
    assert!((4..=5).contains(&authorities), "{authorities} authorities");
    assert!((165..175).contains(&certificates), "{certificates} certificates");
}

#[test]
fn whatever_is_damaged_is_made_anew_and_valid_authorities_stay_trusted() {
    let good = made(None, start());
    let other = made(None, start());
    let damaged = [
        Material { bundle: String::new(), ..good.clone() },
        Material { bundle: "no certificate".to_owned(), ..good.clone() },
        Material { authority_key: String::new(), ..good.clone() },
        Material { authority_key: other.authority_key.clone(), ..good.clone() },
        Material {
            certificate: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
            ..good.clone()
        },
        Material { certificate: other.certificate.clone(), key: other.key.clone(), ..good.clone() },
        Material { key: other.key, ..good.clone() },
        Material { key: String::new(), ..good.clone() },
    ];
    for damaged in damaged {
        let repaired = made(Some(&damaged), start());
        assert!(is_trusted(&repaired.bundle, &repaired.certificate, start()));
        assert!(stays(&repaired, &names(), start()), "repaired once and for all");
        if damaged.bundle == good.bundle {
            assert!(is_trusted(&repaired.bundle, &good.certificate, start()), "the old authority is still valid");
        }
    }
}

#[test]
fn another_name_of_the_service_asks_for_another_certificate() {
    let found = made(None, start());
    let moved = vec!["10.1.255.1".to_owned()];
    assert!(!stays(&found, &moved, start()));
    let renewed = renew(Some(&found), &moved, start()).unwrap().unwrap();
    assert_eq!(renewed.bundle, found.bundle);
    assert!(stays(&renewed, &moved, start()));
    let refused = renew(None, &["not a name ä".to_owned()], start()).unwrap_err();
    assert!(refused.to_string().contains("not a name ä"), "{refused}");
}

#[test]
fn no_key_is_shown_by_debug() {
    let shown = format!("{:?}", made(None, start()));
    assert!(!shown.contains("PRIVATE"), "{shown}");
}
