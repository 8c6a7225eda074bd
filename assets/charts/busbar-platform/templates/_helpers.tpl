{{/* Names, labels and settings that several templates share. */}}

{{/* busbar.fullname (dict "root" $ "part" "nats"): <release>-nats, short enough for a pod's ordinal and hash behind it. */}}
{{- define "busbar.fullname" -}}
{{- printf "%s-%s" (.root.Release.Name | trunc 40 | trimSuffix "-") .part -}}
{{- end }}

{{/* busbar.selector (dict "root" $ "part" "nats"): what a selector may hold, which never changes. */}}
{{- define "busbar.selector" -}}
app.kubernetes.io/name: {{ .part }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "busbar.labels" -}}
{{ include "busbar.selector" . }}
app.kubernetes.io/part-of: busbar-platform
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* busbar.image (dict "image" IMAGE "tag" DEFAULT): a digest wins over a tag. */}}
{{- define "busbar.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .tag }}
{{- end -}}
{{- end }}

{{/* The image of the operator and of the Job that applies the definitions. */}}
{{- define "busbar.operatorImage" -}}
{{- $image := (index .Values "dynamo-operator").controllerManager.manager.image -}}
{{- if not $image.repository -}}
{{- fail "\n\ndynamo-operator.controllerManager.manager.image.repository is empty, and there is no public image.\nPush one with `busbar image push REGISTRY/busbar:TAG` and give it: --set dynamo-operator.controllerManager.manager.image.repository=REGISTRY/busbar,dynamo-operator.controllerManager.manager.image.tag=TAG" -}}
{{- end -}}
{{- include "busbar.image" (dict "image" $image "tag" .Chart.AppVersion) -}}
{{- end }}

{{/* The level `restricted` of the Pod Security Standards, for a pod that runs as USER (dict "user" 1000). */}}
{{- define "busbar.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .user }}
runAsGroup: {{ .user }}
fsGroup: {{ .user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "busbar.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* busbar.spread (dict "root" $ "part" "nats"): over zones and nodes where there are several; one node takes them all too. */}}
{{- define "busbar.spread" -}}
{{- $context := . -}}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "busbar.selector" $context | nindent 6 }}
{{- end }}
{{- end }}

{{/* busbar.scheduling VALUES: where the pods of a part may run. */}}
{{- define "busbar.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* "true" where the switch says so, or says nothing and the cluster has the Prometheus operator's kinds. */}}
{{- define "busbar.monitored" -}}
{{- if kindIs "invalid" .enabled -}}
{{- if .root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1" }}true{{ end -}}
{{- else if .enabled -}}
true
{{- end -}}
{{- end }}

{{/* The Kubernetes namespace whose graphs a restricted operator keeps; empty where it keeps all. */}}
{{- define "busbar.watchedNamespace" -}}
{{- $restriction := (index .Values "dynamo-operator").namespaceRestriction -}}
{{- if $restriction.enabled }}{{ $restriction.targetNamespace | default .Release.Namespace }}{{ end -}}
{{- end }}

{{- define "busbar.natsReplicas" -}}
{{- if .Values.nats.config.cluster.enabled }}{{ .Values.nats.config.cluster.replicas }}{{ else }}1{{ end -}}
{{- end }}

{{- define "busbar.natsSecret" -}}
{{ .Values.nats.auth.existingSecret | default (include "busbar.fullname" (dict "root" . "part" "nats-auth")) }}
{{- end }}

{{/* busbar.fixedReplicas (dict "root" $ "name" STATEFULSET "replicas" N "why" TEXT): refuses another number than what runs. */}}
{{- define "busbar.fixedReplicas" -}}
{{- $there := lookup "apps/v1" "StatefulSet" .root.Release.Namespace .name -}}
{{- if $there -}}
{{- if ne (int $there.spec.replicas) (int .replicas) -}}
{{- fail (printf "\n\n%s has %d replicas, and the values ask for %d. %s" .name (int $there.spec.replicas) (int .replicas) .why) -}}
{{- end -}}
{{- end -}}
{{- end }}
