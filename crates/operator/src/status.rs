//! What is told about a component and a graph.
//!
//! The deciding parts are pure: [`of_pod`] says why a pod is not ready, [`component`] makes a component's status of its
//! Deployment and pods, [`graph`] makes a graph's of its components'. Every reason comes with what to do about it.

pub mod component;
mod condition;
pub mod graph;
mod place;
mod pod;

pub use condition::{Said, said};
pub use pod::{Around, Cause, Trouble, is_available, is_ready, of_pod};

/// Longest message of a condition in bytes; the API server refuses more than 32 KiB, and nobody reads so much.
const MESSAGE_BYTES_MAX: usize = 2048;

/// `text`, cut at a whole character.
pub(crate) fn cut(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES_MAX {
        let mut end = MESSAGE_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}
