//! Fuzz targets for every codec that reads from a socket or a shared store.
//!
//! **Invariant:** no bytes panic, hang or allocate by a claimed length, however they are cut into pieces; whatever is
//! read and written again is read the same.

pub mod entries;
