{{/*
The server's configuration. Names that begin with `$` are variables of its environment, so no secret is in it.
Source: docs.nats.io, "Configuring NATS Server".
*/}}
{{- define "busbar.natsConfiguration" -}}
{{- $config := .Values.nats.config -}}
server_name: $POD_NAME
port: 4222
http_port: 8222
{{- if $config.cluster.enabled }}
# A server that leaves tells its clients to go to another, 5 s before it closes them over the server's least time.
pid_file: /run/nats/nats.pid
lame_duck_grace_period: 5s
lame_duck_duration: 30s
{{- end }}
jetstream {
  store_dir: /data
  max_file_store: {{ include "busbar.natsSize" $config.jetstream.fileStore.pvc.size }}
  max_memory_store: {{ include "busbar.natsSize" $config.jetstream.memoryStore.maxSize }}
}
{{- if .Values.nats.auth.enabled }}
authorization {
  user: $NATS_USERNAME_QUOTED
  password: $NATS_PASSWORD_QUOTED
}
{{- end }}
{{- if $config.cluster.enabled }}
cluster {
  name: {{ include "busbar.fullname" (dict "root" . "part" "nats") }}
  port: 6222
  {{- if .Values.nats.auth.enabled }}
  authorization {
    user: $NATS_USERNAME_QUOTED
    password: $NATS_PASSWORD_QUOTED
  }
  {{- end }}
  routes: [
    {{- range $ordinal := until (int $config.cluster.replicas) }}
    $NATS_ROUTE_{{ $ordinal }}
    {{- end }}
  ]
}
{{- end }}
{{- range $key, $value := $config.merge }}
{{ $key }}: {{ if kindIs "float64" $value }}{{ int64 $value }}{{ else }}{{ toJson $value }}{{ end }}
{{- end }}
{{- end }}

{{/* 10Gi as the server writes it: 10GiB. The volume's size is the store's bound, less a tenth for the file system. */}}
{{- define "busbar.natsSize" -}}
{{- if hasSuffix "Gi" . -}}
{{ div (mul (trimSuffix "Gi" . | int64) 1024 9) 10 }}MiB
{{- else -}}
{{ div (mul (trimSuffix "Mi" . | int64) 9) 10 }}MiB
{{- end -}}
{{- end }}

{{/* Variables of the configuration, quoted for its reader, to which a password of digits is a number. */}}
{{- define "busbar.natsEnvironment" -}}
{{- $name := include "busbar.fullname" (dict "root" . "part" "nats") -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- if .Values.nats.auth.enabled }}
- name: NATS_USERNAME
  valueFrom: {secretKeyRef: {name: {{ include "busbar.natsSecret" . }}, key: username}}
- name: NATS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "busbar.natsSecret" . }}, key: password}}
- name: NATS_USERNAME_QUOTED
  value: '"$(NATS_USERNAME)"'
- name: NATS_PASSWORD_QUOTED
  value: '"$(NATS_PASSWORD)"'
{{- end }}
{{- if .Values.nats.config.cluster.enabled }}
{{- $user := ternary "$(NATS_USERNAME):$(NATS_PASSWORD)@" "" .Values.nats.auth.enabled }}
{{- range $ordinal := until (int .Values.nats.config.cluster.replicas) }}
- name: NATS_ROUTE_{{ $ordinal }}
  value: '"nats://{{ $user }}{{ $name }}-{{ $ordinal }}.{{ $name }}-headless.{{ $.Release.Namespace }}.svc:6222"'
{{- end }}
{{- end }}
{{- end }}
