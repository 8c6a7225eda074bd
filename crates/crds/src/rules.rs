//! CEL rules: what a schema's types cannot say and the API server can still refuse by itself.
//!
//! Each rule guards with `has` what may be absent. Every list that a rule walks has a `maxItems` in its schema, because
//! the API server refuses a rule whose worst case is too dear.
//!
//! Source: Dynamo, docs/kubernetes/api-reference.md and the rules of its validating webhook.

use serde::Serialize;

/// One entry of `x-kubernetes-validations`.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// The expression; `self` is the value that carries the rule.
    pub rule: &'static str,
    /// What the user reads: what is wrong and what to do.
    pub message: &'static str,
    /// The rule also runs when there is no old value; `oldSelf` is then an optional.
    #[serde(skip_serializing_if = "is_false")]
    pub optional_old_self: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

const fn rule(rule: &'static str, message: &'static str) -> Rule {
    Rule { rule, message, optional_old_self: false }
}

const RESTART_ON_CREATE: Rule = Rule {
    rule: "oldSelf.hasValue() || !has(self.restart)",
    message: "restart must be absent when the graph is created; set restart.id later to ask for a restart",
    optional_old_self: true,
};

/// `spec` of a v1beta1 graph.
pub const GRAPH_V1BETA1: &[Rule] = &[
    rule("has(self.components) && size(self.components) > 0", "a graph needs at least one component"),
    rule(
        "!has(self.components) || self.components.all(a, self.components.exists_one(b, a.name.lowerAscii() == b.name.lowerAscii()))",
        "names of components must differ; upper and lower case do not count",
    ),
    rule(
        "!has(self.components) || self.components.filter(c, has(c.type) && c.type == 'epp').size() <= 1",
        "at most one component may have type epp",
    ),
    RESTART_ON_CREATE,
];

/// `spec` of a v1alpha1 graph.
pub const GRAPH_V1ALPHA1: &[Rule] =
    &[rule("has(self.services) && size(self.services) > 0", "a graph needs at least one service"), RESTART_ON_CREATE];

/// A v1beta1 component, in a graph or alone.
pub const COMPONENT_V1BETA1: &[Rule] = &[
    rule(
        "!has(self.eppConfig) || (has(self.type) && self.type == 'epp')",
        "eppConfig is for type epp only; remove it or set the type",
    ),
    rule(
        "!has(self.type) || self.type != 'epp' || (!has(self.multinode) && (!has(self.replicas) || self.replicas == 1))",
        "a component of type epp runs as 1 replica on one node; remove multinode and set replicas to 1",
    ),
    rule(
        "!has(self.minAvailable) || (has(self.replicas) && self.replicas == 0) || self.minAvailable <= (has(self.replicas) ? self.replicas : 1)",
        "minAvailable must not be more than replicas, unless replicas is 0",
    ),
    rule(
        "!has(oldSelf.minAvailable) || (has(self.minAvailable) && self.minAvailable == oldSelf.minAvailable)",
        "minAvailable cannot change; delete the component and create it anew",
    ),
    rule(
        "!has(oldSelf.type) || (has(self.type) && self.type == oldSelf.type)",
        "type cannot change once it is set; give the new component another name",
    ),
    rule(
        "!has(self.podTemplate) || (has(self.podTemplate.spec) && self.podTemplate.spec.containers.exists(c, c.name == 'main' && has(c.image) && size(c.image) > 0))",
        "podTemplate needs a container named main with an image",
    ),
    rule(
        "!has(self.frontendSidecar) || (has(self.podTemplate) && has(self.podTemplate.spec) && self.podTemplate.spec.containers.exists(c, c.name == self.frontendSidecar))",
        "frontendSidecar must name a container of podTemplate",
    ),
    rule(
        "!has(self.dynamoSidecar) || (has(self.podTemplate) && has(self.podTemplate.spec) && has(self.podTemplate.spec.initContainers) && self.podTemplate.spec.initContainers.exists(c, c.name == self.dynamoSidecar && has(c.restartPolicy) && c.restartPolicy == 'Always'))",
        "dynamoSidecar must name an init container of podTemplate with restartPolicy Always",
    ),
    rule(
        "!has(self.roles) || !has(self.multinode) || (size(self.roles) == 2 && self.roles.exists(r, r.name == 'leader') && self.roles.exists(r, r.name == 'worker'))",
        "roles of a multinode component are exactly one leader and one worker",
    ),
];

/// `experimental` of a v1beta1 component.
pub const EXPERIMENTAL: &[Rule] = &[
    rule("!has(self.failover) || has(self.gpuMemoryService)", "failover needs gpuMemoryService"),
    rule(
        "!has(self.failover) || !has(self.gpuMemoryService) || self.failover.mode == self.gpuMemoryService.mode",
        "failover.mode must be that of gpuMemoryService",
    ),
];

/// `gpuMemoryService` of a v1beta1 component.
pub const GPU_MEMORY_SERVICE: &[Rule] = &[
    rule(
        "!has(self.extraClientContainers) || size(self.extraClientContainers) == 0 || self.mode == 'IntraPod'",
        "extraClientContainers needs mode IntraPod",
    ),
    rule("!has(self.extraClientPods) || size(self.extraClientPods) == 0", "extraClientPods is reserved; remove it"),
];

/// `checkpoint` of a v1beta1 component.
pub const CHECKPOINT_V1BETA1: &[Rule] = &[rule(
    "!has(self.job) || !has(self.checkpointRef) || size(self.checkpointRef) == 0",
    "job makes a checkpoint and checkpointRef uses one that exists; give only one of them",
)];

/// `checkpoint` of a v1alpha1 service.
pub const CHECKPOINT_V1ALPHA1: &[Rule] = &[rule(
    "!has(self.enabled) || !self.enabled || (has(self.checkpointRef) && size(self.checkpointRef) > 0) || has(self.identity)",
    "an enabled checkpoint needs checkpointRef or identity",
)];

/// `eppConfig`.
pub const EPP_CONFIG: &[Rule] =
    &[rule("has(self.configMapRef) != has(self.config)", "give exactly one of configMapRef and config")];

/// `restart.strategy`.
pub const RESTART_STRATEGY: &[Rule] = &[rule(
    "!has(self.order) || size(self.order) == 0 || !has(self.type) || self.type != 'Parallel'",
    "order has no meaning for a Parallel restart; remove it",
)];

/// `experimental.kvTransferPolicy`.
pub const KV_TRANSFER_POLICY: &[Rule] = &[
    rule("has(self.labelKey) != has(self.clusterTopologyName)", "give exactly one of labelKey and clusterTopologyName"),
    rule(
        "!has(self.enforcement) || self.enforcement != 'preferred' || has(self.preferredWeight)",
        "enforcement preferred needs preferredWeight",
    ),
    rule(
        "!has(self.preferredWeight) || (has(self.enforcement) && self.enforcement == 'preferred')",
        "preferredWeight is for enforcement preferred only",
    ),
];

/// An entry of `pvcs`.
pub const PVC: &[Rule] = &[rule(
    "!has(self.create) || !self.create || (has(self.size) && has(self.storageClass) && has(self.volumeAccessMode))",
    "with create: true a claim needs size, storageClass and volumeAccessMode",
)];

/// `sharedMemory`.
pub const SHARED_MEMORY: &[Rule] =
    &[rule("(has(self.disabled) && self.disabled) != has(self.size)", "give size, or disabled: true, and not both")];

/// An entry of `volumeMounts`.
pub const VOLUME_MOUNT: &[Rule] = &[rule(
    "(has(self.useAsCompilationCache) && self.useAsCompilationCache) || (has(self.mountPoint) && size(self.mountPoint) > 0)",
    "mountPoint is required unless useAsCompilationCache is true",
)];

/// `ingress`.
pub const INGRESS: &[Rule] = &[rule(
    "!has(self.enabled) || !self.enabled || (has(self.host) && size(self.host) > 0)",
    "an enabled ingress needs a host",
)];

/// `dgdRef` of a v1alpha1 scaling adapter.
pub const SCALED_SERVICE: &[Rule] = &[rule(
    "has(self.serviceName) != has(self.componentGroupName)",
    "give exactly one of serviceName and componentGroupName",
)];

/// `dgdRef` of a v1beta1 scaling adapter.
pub const SCALED_COMPONENT: &[Rule] = &[rule(
    "has(self.componentName) != has(self.componentGroupName)",
    "give exactly one of componentName and componentGroupName",
)];

/// `sla` of a deployment request.
pub const SLA: &[Rule] = &[rule(
    "((has(self.ttft) || has(self.itl)) ? 1 : 0) + (has(self.e2eLatency) ? 1 : 0) + (has(self.optimizationType) ? 1 : 0) <= 1",
    "give one goal: ttft and itl, or e2eLatency, or optimizationType",
)];
