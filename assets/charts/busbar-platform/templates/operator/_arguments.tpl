{{/* The operator's command line. What is secret comes by environment, never here. */}}
{{- define "busbar.operatorArguments" -}}
{{- $operator := index .Values "dynamo-operator" -}}
- operator
{{- with include "busbar.watchedNamespace" . }}
- --watch-namespace={{ . }}
{{- end }}
- --webhook-service=busbar-operator-webhook
- --webhook-port=9443
- --health-port=8081
- --metrics-port=8080
- --leader-election-id={{ $operator.controllerManager.leaderElection.id }}
- --discovery-backend={{ $operator.discoveryBackend }}
{{- if $operator.etcdAddr }}
- --etcd-endpoints={{ $operator.etcdAddr }}
{{- else if .Values.global.etcd.install }}
- --etcd-endpoints=http://{{ include "busbar.fullname" (dict "root" . "part" "etcd") }}.{{ .Release.Namespace }}.svc:2379
{{- end }}
- --image={{ include "busbar.operatorImage" . }}
{{- range $operator.imageMap }}
- --image-map={{ .from }}={{ .to }}
{{- end }}
{{- with $operator.dynamo.ingress }}
{{- if .enabled }}
- --ingress-class={{ .className }}
{{- with .tlsSecretName }}
- --ingress-tls-secret={{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- with $operator.dynamo.ingressHostSuffix }}
- --ingress-host-suffix={{ . }}
{{- end }}
{{- with $operator.dynamo.metrics.prometheusEndpoint }}
- --prometheus-endpoint={{ . }}
{{- end }}
{{- with $operator.modelExpressURL }}
- --model-express-url={{ . }}
{{- end }}
{{- if not $operator.webhook.enabled }}
- --no-webhooks
{{- end }}
{{- end }}

{{/* The address of NATS that graphs get. With the user and password in it, as our NATS client reads them. */}}
{{- define "busbar.natsAddressEnv" -}}
{{- $operator := index .Values "dynamo-operator" -}}
{{- if $operator.natsAddr }}
- name: BUSBAR_OPERATOR_NATS_ADDRESS
  value: {{ $operator.natsAddr | quote }}
{{- else if .Values.global.nats.install }}
{{- $host := printf "%s.%s.svc:4222" (include "busbar.fullname" (dict "root" . "part" "nats")) .Release.Namespace }}
{{- if .Values.nats.auth.enabled }}
- name: NATS_USERNAME
  valueFrom: {secretKeyRef: {name: {{ include "busbar.natsSecret" . }}, key: username}}
- name: NATS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "busbar.natsSecret" . }}, key: password}}
- name: BUSBAR_OPERATOR_NATS_ADDRESS
  value: nats://$(NATS_USERNAME):$(NATS_PASSWORD)@{{ $host }}
{{- else }}
- name: BUSBAR_OPERATOR_NATS_ADDRESS
  value: nats://{{ $host }}
{{- end }}
{{- end }}
{{- end }}
