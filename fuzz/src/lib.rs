//! Fuzz targets for everything that reads what strangers send: from a socket, a shared store, or a client.
//!
//! **Invariant:** no bytes panic, hang or allocate by a claimed length, however they are cut into pieces; whatever is
//! read and written again is read the same.

#[cfg(feature = "frontend")]
pub mod answer;
pub mod entries;
#[cfg(feature = "frontend")]
pub mod http;
pub mod vllm;
