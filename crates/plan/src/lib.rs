//! From a platform file to what should exist: chart values, manifests, in order.
//!
//! **Invariant:** pure. Same file, same bytes; no file, clock, environment or credential is read here.
