{{/*
What the operator may do, as rules of a Role or ClusterRole. Less than Dynamo's manager-role: no secrets unless asked,
no DaemonSets, HPAs, Istio, token reviews, or kinds of schedulers.
*/}}

{{/* In the namespaces of graphs. What the operator gives to the ServiceAccounts of graphs (EndpointSlices to read,
     DynamoWorkerMetadata and pods) it must hold itself, or the API server refuses the grant. */}}
{{- define "busbar.graphRules" -}}
{{- $operator := index .Values "dynamo-operator" -}}
- apiGroups: [nvidia.com]
  resources: [dynamographdeployments, dynamocomponentdeployments, dynamographdeploymentscalingadapters, dynamomodels, dynamographdeploymentrequests, dynamoworkermetadatas]
  verbs: [create, delete, get, list, patch, update, watch]
- apiGroups: [nvidia.com]
  resources: [dynamographdeployments/status, dynamocomponentdeployments/status, dynamographdeploymentscalingadapters/status, dynamomodels/status, dynamographdeploymentrequests/status]
  verbs: [get, patch, update]
- apiGroups: [nvidia.com]
  resources: [dynamographdeployments/finalizers, dynamocomponentdeployments/finalizers, dynamographdeploymentscalingadapters/finalizers, dynamomodels/finalizers, dynamographdeploymentrequests/finalizers]
  verbs: [get, patch, update]
- apiGroups: [""]
  resources: [services, serviceaccounts, persistentvolumeclaims]
  verbs: [create, delete, get, list, patch, update, watch]
- apiGroups: [apps]
  resources: [deployments, controllerrevisions]
  verbs: [create, delete, get, list, patch, update, watch]
# What fills the cache of a model.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, delete, get, list, patch, update, watch]
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [create, delete, get, list, patch, update, watch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [create, delete, get, list, patch, update, watch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [create, delete, get, list, patch, update, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
# To tell why a pod does not start or live.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- if $operator.imagePullSecretDiscovery.enabled }}
# RBAC cannot say `only those of type kubernetes.io/dockerconfigjson`: this reads every secret of the namespaces.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch]
{{- end }}
{{- end }}

{{/* Of the whole cluster, so not for an operator that is restricted: which node would help a pod that waits. */}}
{{- define "busbar.nodeRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch]
{{- end }}

{{/*
The certificate of the webhooks, which the operator writes where the API server reads it, and watches; these objects and no
other. `create` is not among it: what an uninstall removes, an operator that is about to end cannot bring back.
*/}}
{{- define "busbar.webhookRules" -}}
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [{{ include "busbar.definitions" . }}]
  verbs: [get, list, patch, update, watch]
{{- range $act := list "mutating" "validating" }}
- apiGroups: [admissionregistration.k8s.io]
  resources: [{{ $act }}webhookconfigurations]
  resourceNames: [{{ include "busbar.webhookConfiguration" (dict "root" $ "act" $act) }}]
  verbs: [get, list, patch, update, watch]
{{- end }}
{{- end }}

{{- define "busbar.definitions" -}}
dynamocomponentdeployments.nvidia.com, dynamographdeploymentrequests.nvidia.com, dynamographdeployments.nvidia.com, dynamographdeploymentscalingadapters.nvidia.com, dynamomodels.nvidia.com, dynamoworkermetadatas.nvidia.com
{{- end }}

{{/* busbar.webhookConfiguration (dict "root" $ "act" "validating"): the name that the operator looks for. */}}
{{- define "busbar.webhookConfiguration" -}}
{{- $watched := include "busbar.watchedNamespace" .root -}}
busbar-operator-{{ .act }}{{ with $watched }}-{{ . }}{{ end -}}
{{- end }}
