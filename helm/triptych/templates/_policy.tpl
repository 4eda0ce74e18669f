{{/* Gateway or ingress -> orchestrator -> components; nothing else reaches anything. */}}
{{- define "triptych.dns" -}}
- to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]
  ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end -}}

{{- define "triptych.policy" -}}
{{- $component := . -}}
{{- $policy := .root.Values.networkPolicy -}}
{{- $orchestrator := dict "root" .root "name" "orchestrator" -}}
{{- if $policy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "triptych.fullname" . }}
  labels: {{- include "triptych.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels: {{- include "triptych.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    {{- if ne .service "orchestrator" }}
    - from:
        {{- range $name, $of := .all }}
        {{- if eq $of.service "orchestrator" }}
        - podSelector:
            matchLabels: {{- include "triptych.selector" (dict "root" $component.root "name" $name) | nindent 14 }}
        {{- end }}
        {{- end }}
      ports: [{port: grpc}]
    {{- else if $policy.gateways }}
    - from: {{- toYaml $policy.gateways | nindent 8 }}
      ports: [{port: grpc}]
    {{- end }}
    {{- with $policy.monitoring }}
    - from: {{- toYaml . | nindent 8 }}
      ports: [{port: metrics}]
    {{- end }}
  {{- if eq .service "orchestrator" }}
  egress:
    {{- include "triptych.dns" . | nindent 4 }}
    {{- range $name, $of := .all }}
    {{- if ne $of.service "orchestrator" }}
    - to:
        - podSelector:
            matchLabels: {{- include "triptych.selector" (dict "root" $component.root "name" $name) | nindent 14 }}
      ports: [{port: {{ include "triptych.port" $of.service }}}]
    {{- end }}
    {{- end }}
  {{- else if eq .of.checkpoint.source "fetch" }}
  egress:
    {{- include "triptych.dns" . | nindent 4 }}
    - ports:
        {{- range $policy.fetchPorts }}
        - {port: {{ int . }}}
        {{- end }}
  {{- else }}
  egress: []
  {{- end }}
{{- end }}
{{- end -}}
