{{/* A certificate for each component, for the name that the orchestrator calls: its stage's. */}}
{{- define "triptych.tlsSecret" -}}
{{- .of.tlsSecretName | default (include "triptych.fullname" (dict "root" .root "name" (printf "%s-tls" .name))) -}}
{{- end -}}

{{- define "triptych.issuer" -}}
{{- $issuer := .Values.tls.certManager.issuer -}}
{{- if $issuer.name -}}
{{- toYaml $issuer -}}
{{- else -}}
name: {{ include "triptych.fullname" (dict "root" . "name" "ca") }}
kind: Issuer
group: cert-manager.io
{{- end -}}
{{- end -}}

{{- define "triptych.certificate" -}}
{{- $tls := .root.Values.tls -}}
{{- $stage := include "triptych.stage" . -}}
{{- if and $tls.enabled $tls.certManager.enabled }}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: {{ include "triptych.fullname" . }}
  labels: {{- include "triptych.labels" . | nindent 4 }}
spec:
  secretName: {{ include "triptych.tlsSecret" . | quote }}
  issuerRef: {{- include "triptych.issuer" .root | nindent 4 }}
  duration: {{ $tls.certManager.duration }}
  renewBefore: {{ $tls.certManager.renewBefore }}
  privateKey: {algorithm: ECDSA, size: 256, rotationPolicy: Always}
  usages: [digital signature, key encipherment, server auth, client auth]
  dnsNames:
    - {{ $stage }}
    - {{ $stage }}.{{ .root.Release.Namespace }}
    - {{ $stage }}.{{ .root.Release.Namespace }}.svc
    - localhost
    {{- if eq .service "orchestrator" }}
    {{- range $tls.certManager.orchestratorNames }}
    - {{ . | quote }}
    {{- end }}
    {{- end }}
{{- end }}
{{- end -}}
