//! A graph as Kubernetes objects: check it, hash its workers, render it.
//!
//! Everything is a function of the graph (as stored, `v1beta1`) and of [`Settings`]; nothing here talks to a cluster.
//! The way down: a DynamoGraphDeployment becomes one DynamoComponentDeployment a component ([`components`]) and what
//! belongs to the graph as a whole ([`graph_objects`]); a DynamoComponentDeployment becomes what runs it
//! ([`component_objects`]).
//!
//! [`read`] takes a manifest of either version; [`check`] finds everything that is wrong with a graph, [`check_update`]
//! what a change may not change, [`warnings`] what is accepted and not done.
//!
//! Every object has the graph's Kubernetes namespace, the label [`labels::MANAGED_BY`], and an owner reference once its
//! owner has a uid. Names of objects, labels, environment, ports and probes are Dynamo's.
//!
//! Source: Dynamo, docs/kubernetes and deploy/operator.

mod check;
mod check_names;
mod check_pod;
mod check_update;
mod check_v1alpha1;
mod component_objects;
mod components;
mod container;
mod drain;
mod environment;
mod graph_objects;
mod hash;
mod image;
mod ingress;
pub mod labels;
mod names;
mod pod;
mod quantity;
mod read;
mod settings;
mod warnings;

pub use check::{check, check_component, check_settings};
pub use check_update::{Caller, check_component_update, check_update};
pub use component_objects::component_objects;
pub use components::components;
pub use graph_objects::graph_objects;
pub use hash::{base_model_hash, worker_hash};
pub use image::registry_host;
pub use names::{
    GLOBAL_DYNAMO_NAMESPACE, NAME_LENGTH_MAX, WorkerHash, component_name, dynamo_namespace, is_worker, kind_of,
    model_service_name, scaling_adapter_name, service_account_name, service_name,
};
pub use quantity::Quantity;
pub use read::read;
pub use settings::{DiscoveryBackend, IngressSettings, Settings};
pub use warnings::{component_warnings, warnings};
