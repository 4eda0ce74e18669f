{{/* Pod Security "restricted", and more: a file system that cannot be written. */}}
{{- define "triptych.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "triptych.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Where a pod may run, from a component's or the trainer's settings. */}}
{{- define "triptych.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "triptych.resources" -}}
{{- $resources := deepCopy (.resources | default dict) -}}
{{- if gt (int .gpu.count) 0 -}}
{{- $resources = mergeOverwrite $resources (dict "limits" (dict .gpu.resource (int .gpu.count))) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* A setting as a variable: numbers written out (Helm reads 16777216 as 1.6777216e+07), lists with commas. */}}
{{- define "triptych.setting" -}}
{{- if kindIs "slice" . -}}{{- join "," . -}}
{{- else if kindIs "string" . -}}{{- . -}}
{{- else -}}{{- toJson . -}}{{- end -}}
{{- end -}}

{{/* The process's variables: what the chart decides, over it `config`, then `env`. */}}
{{- define "triptych.env" -}}
{{- $component := . -}}
{{- $values := .root.Values -}}
{{- $config := dict "host" "0.0.0.0" "port" (include "triptych.port" .service) -}}
{{- $_ := set $config "metrics_port" (include "triptych.metricsPort" .service) -}}
{{- $_ := set $config "health_port" (include "triptych.healthPort" .service) -}}
{{- if $values.tls.enabled -}}{{- $_ := set $config "tls_dir" "/tls" -}}
{{- else -}}{{- $_ := set $config "insecure" true -}}{{- end -}}
{{- if eq (include "triptych.watches" .) "true" -}}
{{- $_ := set $config "kubernetes_selector" (printf "app.kubernetes.io/name=triptych,app.kubernetes.io/instance=%s" .root.Release.Name) -}}
{{- else if eq .service "orchestrator" -}}
{{- range $service := include "triptych.stages" .all | fromJsonArray -}}
{{- $address := printf "%s:%s" (include "triptych.stage" (dict "root" $component.root "service" $service)) (include "triptych.port" $service) -}}
{{- if ne $service "orchestrator" -}}{{- $_ := set $config (printf "%s_addresses" $service) $address -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if eq .service "orchestrator" -}}
{{- if $values.keys.secretName -}}{{- $_ := set $config "keys_file" (printf "/keys/%s" $values.keys.key) -}}{{- end -}}
{{- else -}}
{{- $_ := set $config "checkpoint" "/checkpoint" -}}
{{- $_ := set $config "release" (include "triptych.image" . | splitList "/" | last) -}}
{{- $_ := set $config "device" (ternary "cuda" "cpu" (gt (int .of.gpu.count) 0)) -}}
{{- end -}}
{{- range $key, $value := mergeOverwrite $config (deepCopy .of.config) }}
- name: {{ printf "%s_%s" $component.service $key | upper }}
  value: {{ include "triptych.setting" $value | quote }}
{{- end }}
{{- include "triptych.homes" . }}
{{- with .of.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The services that have components, as a JSON list; takes all components. */}}
{{- define "triptych.stages" -}}
{{- $found := dict -}}
{{- range . -}}{{- $_ := set $found .service true -}}{{- end -}}
{{- keys $found | sortAlpha | toJson -}}
{{- end -}}

{{/* Secrets as files, renewed in place: a folder is mounted, never a file in it. */}}
{{- define "triptych.secretMounts" -}}
{{- if .root.Values.tls.enabled }}
- {name: tls, mountPath: /tls, readOnly: true}
{{- end }}
{{- if and (eq .service "orchestrator") .root.Values.keys.secretName }}
- {name: keys, mountPath: /keys, readOnly: true}
{{- end }}
{{- end -}}

{{- define "triptych.secretVolumes" -}}
{{- if .root.Values.tls.enabled }}
- name: tls
  secret: {secretName: {{ include "triptych.tlsSecret" . | quote }}, defaultMode: 0440}
{{- end }}
{{- if and (eq .service "orchestrator") .root.Values.keys.secretName }}
- name: keys
  secret: {secretName: {{ .root.Values.keys.secretName | quote }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* Probes have a port of their own, without TLS: a kubelet's know none (docs/decisions/0010). Health is SERVING once the
weights are loaded and the golden probes have passed. */}}
{{- define "triptych.probes" -}}
{{- $port := include "triptych.healthPort" .service -}}
startupProbe:
  grpc: {port: {{ $port }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ max 1 (div (int .of.startupSeconds) 5) }}
readinessProbe:
  grpc: {port: {{ $port }}, service: {{ include "triptych.readiness" . | quote }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:
  grpc: {port: {{ $port }}}
  periodSeconds: 15
  timeoutSeconds: 10
  failureThreshold: 6
{{- end -}}

{{/* What of its health makes a pod ready: of a component also that it fits the others, as the orchestrator tells it. */}}
{{- define "triptych.readiness" -}}{{- if ne .service "orchestrator" -}}chain{{- end -}}{{- end -}}

{{/* Libraries keep caches where they think home is. */}}
{{- define "triptych.homes" }}
- name: HOME
  value: /tmp
{{- end -}}
