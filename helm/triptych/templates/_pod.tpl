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
{{- $config := dict "host" "0.0.0.0" "port" (include "triptych.port" .service) "metrics_port" "9090" -}}
{{- if eq .service "orchestrator" -}}
{{- range $service := list "encoder" "llm" "decoder" -}}
{{- $addresses := list -}}
{{- range $name, $of := $component.all -}}
{{- if eq $of.service $service -}}
{{- $host := include "triptych.fullname" (dict "root" $component.root "name" $name) -}}
{{- $addresses = append $addresses (printf "%s:%s" $host (include "triptych.port" $service)) -}}
{{- end -}}
{{- end -}}
{{- with $addresses -}}{{- $_ := set $config (printf "%s_addresses" $service) . -}}{{- end -}}
{{- end -}}
{{- else -}}
{{- $_ := set $config "checkpoint" "/checkpoint" -}}
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

{{/* Libraries keep caches where they think home is. */}}
{{- define "triptych.homes" }}
- name: HOME
  value: /tmp
{{- end -}}
