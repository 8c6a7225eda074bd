//! One graph: read, validate, default, render.
//!
//! **Invariant:** pure. The same text gives the same graph and the same findings; nothing here reads a file, an
//! environment variable or a clock. A graph that [`parse`] returns has a frontend, unique names and sane counts.
//!
//! Start with [`parse::parse`]; [`local`] renders a graph to the processes of one machine, [`cluster`] to Kubernetes
//! objects; [`argv`] reads the command lines that manifests give.

pub mod argv;
pub mod cluster;
pub mod component;
pub mod finding;
pub mod local;
pub mod model_cache;
pub mod parse;

pub use component::{Component, ComponentKind, EnvValue, Graph};
pub use finding::Finding;
pub use parse::parse;
