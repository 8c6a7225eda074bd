//! The status page: what runs and how well, for a person with a browser. Its data come from `/metrics`' own registry.

mod page;
mod routes;
mod snapshot;

pub(crate) use page::{chat, figures, icon, script, shell, style};
pub(crate) use routes::{Route, RouteBoard};
pub(crate) use snapshot::snapshot;
