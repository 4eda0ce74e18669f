{{/* Gateway or ingress -> orchestrator -> components; nothing else reaches anything. */}}
{{- define "triptych.dns" -}}
- to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]
  ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end -}}

{{/* To whoever reads metrics, at the port in config.traces. */}}
{{- define "triptych.tracesEgress" -}}
{{- with get .of.config "traces" -}}
{{- if hasPrefix "otlp" . }}
- ports: [{port: {{ regexFind "[0-9]+$" . }}}]
  {{- with $.root.Values.networkPolicy.monitoring }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* To the provider's keys, which may be anywhere. */}}
{{- define "triptych.keysEgress" -}}
{{- with get .of.config "jwt_jwks" -}}
{{- if hasPrefix "https://" . }}
- ports: [{port: {{ regexFind ":[0-9]+$" (urlParse .).host | default ":443" | trimPrefix ":" }}}]
{{- end }}
{{- end -}}
{{- end -}}

{{/* To what its settings name, which may be anywhere. */}}
{{- define "triptych.addressesEgress" -}}
{{- $config := .of.config -}}
{{- $ports := list -}}
{{- range $key := list "triton_address" "encoder_addresses" "llm_addresses" "decoder_addresses" -}}
{{- range splitList "," (include "triptych.setting" (get $config $key)) -}}
{{- with regexFind "[0-9]+$" . -}}{{- $ports = append $ports . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- include "triptych.anywhere" ($ports | uniq) }}
{{- end -}}

{{/* A rule for these ports; without one it would be a rule for all. */}}
{{- define "triptych.anywhere" -}}
{{- with . }}
- ports:
    {{- range . }}
    - {port: {{ int . }}}
    {{- end }}
{{- end }}
{{- end -}}

{{- define "triptych.policy" -}}
{{- $component := . -}}
{{- $policy := .root.Values.networkPolicy -}}
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
        - podSelector:
            matchLabels: {{- include "triptych.stageSelector" (dict "root" .root "service" "orchestrator") | nindent 14 }}
      ports: [{port: grpc}]
    {{- else if $policy.gateways }}
    - from: {{- toYaml $policy.gateways | nindent 8 }}
      ports: [{port: grpc}]
    {{- end }}
    {{- with $policy.monitoring }}
    - from: {{- toYaml . | nindent 8 }}
      ports: [{port: metrics}]
    {{- end }}
  {{- $egress := include "triptych.egress" . | trim }}
  {{- if $egress }}
  egress:
    {{- include "triptych.dns" . | nindent 4 }}
    {{- $egress | nindent 4 }}
  {{- else }}
  egress: []
  {{- end }}
{{- end }}
{{- end -}}

{{- define "triptych.egress" -}}
{{- $component := . -}}
{{- if eq .service "orchestrator" }}
{{- range $service := include "triptych.stages" .all | fromJsonArray }}
{{- if ne $service "orchestrator" }}
- to:
    - podSelector:
        matchLabels: {{- include "triptych.stageSelector" (dict "root" $component.root "service" $service) | nindent 10 }}
  ports: [{port: {{ include "triptych.port" $service }}}]
{{- end }}
{{- end }}
{{- if eq (include "triptych.watches" .) "true" }}
{{- include "triptych.anywhere" .of.apiPorts }}
{{- end }}
{{- include "triptych.keysEgress" . }}
{{- else if eq .of.checkpoint.source "fetch" }}
{{- include "triptych.anywhere" .root.Values.networkPolicy.fetchPorts }}
{{- end }}
{{- include "triptych.addressesEgress" . }}
{{- include "triptych.tracesEgress" . }}
{{- end -}}
