//! The types and bytes that strangers hold us to: requests, chunks, KV events, the model card and the discovery
//! records of NVIDIA Dynamo 1.6, and [`dynamo`], the codec of its frames.
//!
//! **Invariant:** no I/O, no clock and no async here. A value that was read from a Dynamo peer and written again has
//! the same bytes; a field that we do not know is skipped, one that is absent takes its default.
//!
//! Start with [`request`] and [`output`] for the request plane, [`kv`] and [`events`] for the event plane,
//! [`discovery`] and [`card`] for what a worker announces.

pub mod card;
pub mod discovery;
pub mod dynamo;
pub mod events;
pub mod ids;
pub mod kv;
pub mod output;
pub mod request;
pub mod space;
