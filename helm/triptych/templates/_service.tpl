{{/* The Service of a stage, and who scrapes it. Takes (dict "root" $ "service" "decoder"). */}}
{{- define "triptych.service" -}}
{{- $values := .root.Values -}}
{{- $isOrchestrator := eq .service "orchestrator" -}}
{{- $labels := include "triptych.labels" (dict "root" .root "name" .service) }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ include "triptych.stage" . }}
  labels: {{- $labels | nindent 4 }}
    triptych/service: {{ .service }}
spec:
  type: ClusterIP
  {{- if or (not $isOrchestrator) $values.orchestrator.headless }}
  # Headless: the name resolves to all pods, and the caller balances.
  clusterIP: None
  {{- end }}
  {{- if not $isOrchestrator }}
  # The orchestrator asks each pod itself whether it serves, and is to know of those that do not yet.
  publishNotReadyAddresses: true
  {{- end }}
  selector: {{- include "triptych.stageSelector" . | nindent 4 }}
  ports:
    - name: grpc
      port: {{ include "triptych.port" .service }}
      targetPort: grpc
      appProtocol: {{ ternary "https" "kubernetes.io/h2c" $values.tls.enabled }}
    - {name: metrics, port: {{ include "triptych.metricsPort" .service }}, targetPort: metrics}
{{- if $values.monitoring.serviceMonitor.enabled }}
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ include "triptych.stage" . }}
  labels: {{- merge ($labels | fromYaml) $values.monitoring.serviceMonitor.labels | toYaml | nindent 4 }}
spec:
  selector:
    matchLabels: {{- include "triptych.selector" (dict "root" .root "name" .service) | nindent 6 }}
  endpoints:
    - {port: metrics, interval: {{ int $values.monitoring.serviceMonitor.intervalSeconds }}s}
{{- end }}
{{- end -}}
