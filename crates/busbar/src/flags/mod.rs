//! Flags of the processes: what is written, and what is meant.

pub(crate) mod discovery;
pub(crate) mod dynamo_vllm;
pub(crate) mod frontend;
pub(crate) mod manifest;
pub(crate) mod mocker;
pub(crate) mod nats;
pub(crate) mod operator;
pub(crate) mod worker;
