{{/* More pods while requests wait in the component's own queue: triptych_<service>_queued_ms, the mean of a minute. The
orchestrator's is the wait for admission. */}}
{{- define "triptych.scaling" -}}
{{- $scaling := .of.autoscaling -}}
{{- $fullname := include "triptych.fullname" . -}}
{{- $metric := printf "triptych_%s_queued_ms" .service -}}
{{- if $scaling.enabled }}
{{- if lt (int $scaling.maxReplicas) (int $scaling.minReplicas) -}}
{{- fail (printf "%s.autoscaling: maxReplicas is %d, must be at least minReplicas, %d" .name (int $scaling.maxReplicas) (int $scaling.minReplicas)) -}}
{{- end -}}
{{- if eq $scaling.kind "hpa" }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ $fullname }}
  labels: {{- include "triptych.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ $fullname }}}
  minReplicas: {{ int $scaling.minReplicas }}
  maxReplicas: {{ int $scaling.maxReplicas }}
  metrics:
    - type: Pods
      pods:
        metric: {name: {{ $metric }}_mean}
        target: {type: AverageValue, averageValue: {{ int $scaling.targetQueuedMs | quote }}}
  behavior:
    scaleUp:
      stabilizationWindowSeconds: 0
      policies: [{type: Percent, value: 100, periodSeconds: 60}, {type: Pods, value: 2, periodSeconds: 60}]
    scaleDown:
      stabilizationWindowSeconds: {{ int $scaling.scaleDownAfterSeconds }}
      policies: [{type: Pods, value: 1, periodSeconds: 60}]
{{- else }}
{{- /* Of a pod's name Kubernetes keeps 58 characters and adds five: of a long one the hash is cut, and its hyphen gone. */ -}}
{{- $pod := printf "%s[0-9a-f]*-?[0-9a-z]{5}" (printf "%s-" $fullname | trunc 58) -}}
{{- $pods := printf "{namespace=\"%s\",pod=~\"%s\"}[1m]" .root.Release.Namespace $pod }}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ $fullname }}
  labels: {{- include "triptych.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {name: {{ $fullname }}}
  minReplicaCount: {{ int $scaling.minReplicas }}
  maxReplicaCount: {{ int $scaling.maxReplicas }}
  cooldownPeriod: {{ int $scaling.scaleDownAfterSeconds }}
  triggers:
    - type: prometheus
      metricType: Value
      metadata:
        serverAddress: {{ .root.Values.monitoring.prometheusAddress | quote }}
        # No request, no wait: 0 rather than nothing.
        query: {{ printf "(sum(rate(%s_sum%s)) / (sum(rate(%s_count%s)) > 0)) or vector(0)" $metric $pods $metric $pods | quote }}
        threshold: {{ int $scaling.targetQueuedMs | quote }}
{{- end }}
{{- end }}
{{- end -}}
