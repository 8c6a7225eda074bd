{{/* Parts of the network policies. */}}

{{- define "busbar.egressToNames" -}}
# Names: by the Service, or by a cache on the node, which is no pod.
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end }}

{{- define "busbar.egressToApiServer" -}}
- ports:
  {{- range .Values.networkPolicy.apiServer.ports }}
  - {port: {{ . }}, protocol: TCP}
  {{- end }}
  {{- with .Values.networkPolicy.apiServer.cidrs }}
  to:
  {{- range . }}
  - ipBlock: {cidr: {{ . }}}
  {{- end }}
  {{- end }}
{{- end }}

{{/* Pods that the operator makes for graphs: in all namespaces, or in the one that it is restricted to. */}}
{{- define "busbar.graphPods" -}}
{{- $watched := include "busbar.watchedNamespace" . -}}
{{- if $watched -}}
- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ $watched }}}}
{{- else -}}
- namespaceSelector: {}
{{- end }}
  podSelector:
    matchExpressions:
    - {key: nvidia.com/dynamo-graph-deployment-name, operator: Exists}
{{- end }}
