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
  resources: [dynamographdeployments/finalizers, dynamocomponentdeployments/finalizers, dynamographdeploymentscalingadapters/finalizers, dynamomodels/finalizers, dynamographdeploymentrequests/finalizers, dynamographdeploymentscalingadapters/scale]
  verbs: [get, patch, update]
- apiGroups: [""]
  resources: [configmaps, services, serviceaccounts, persistentvolumeclaims]
  verbs: [create, delete, get, list, patch, update, watch]
- apiGroups: [apps]
  resources: [deployments, controllerrevisions]
  verbs: [create, delete, get, list, patch, update, watch]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get, list, watch]
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
# Pods: to tell why one does not start, and to drain one that leaves.
- apiGroups: [""]
  resources: [pods]
  verbs: [delete, get, list, patch, watch]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, get, list, patch, update, watch]
{{- if $operator.imagePullSecretDiscovery.enabled }}
# RBAC cannot say `only those of type kubernetes.io/dockerconfigjson`: this reads every secret of the namespaces.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list]
{{- end }}
{{- if .Values.global.lws.enabled }}
- apiGroups: [leaderworkerset.x-k8s.io]
  resources: [leaderworkersets]
  verbs: [create, delete, get, list, patch, update, watch]
{{- end }}
{{- if .Values.global.grove.enabled }}
- apiGroups: [grove.io]
  resources: [podcliquesets]
  verbs: [create, delete, get, list, patch, update, watch]
- apiGroups: [grove.io]
  resources: [podcliques, podcliquescalinggroups]
  verbs: [get, list, watch]
- apiGroups: [grove.io]
  resources: [podcliques/scale, podcliquescalinggroups/scale]
  verbs: [get, patch, update]
{{- end }}
{{- end }}

{{/* What is of the whole cluster and read only: which node or volume would help a pod that waits. */}}
{{- define "busbar.clusterReadRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [persistentvolumes]
  verbs: [get, list]
- apiGroups: [storage.k8s.io]
  resources: [storageclasses]
  verbs: [get, list]
{{- end }}

{{/* The certificate of the webhooks, which the operator writes where the API server reads it; these objects and no other. */}}
{{- define "busbar.webhookRules" -}}
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [{{ include "busbar.definitions" . }}]
  verbs: [get, patch, update]
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations, validatingwebhookconfigurations]
  resourceNames: [{{ include "busbar.webhookConfiguration" . }}]
  verbs: [get, patch, update]
{{- end }}

{{- define "busbar.definitions" -}}
dynamocomponentdeployments.nvidia.com, dynamographdeploymentrequests.nvidia.com, dynamographdeployments.nvidia.com, dynamographdeploymentscalingadapters.nvidia.com, dynamomodels.nvidia.com, dynamoworkermetadatas.nvidia.com
{{- end }}

{{- define "busbar.webhookConfiguration" -}}
{{- if include "busbar.watchedNamespace" . }}busbar-operator-{{ .Release.Namespace }}{{ else }}busbar-operator{{ end -}}
{{- end }}
