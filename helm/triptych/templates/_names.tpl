{{/* Everything here takes (dict "root" $ "name" component "of" its settings), `component` below. */}}

{{/* At most 63 characters, as names of Services and values of labels have. Redis' StatefulSet has 52: Kubernetes labels its
pod with that name, a hyphen and a hash of ten. */}}
{{- define "triptych.fullname" -}}
{{- $most := ternary 52 63 (eq .name "redis") -}}
{{- printf "%s-%s" (.root.Release.Name | trunc (sub $most (add1 (len .name)) | int) | trimSuffix "-") .name -}}
{{- end -}}

{{- define "triptych.selector" -}}
app.kubernetes.io/name: triptych
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .name | quote }}
{{- end -}}

{{/* No version: it would change objects that an upgrade of one image leaves as they are. */}}
{{- define "triptych.labels" -}}
{{ include "triptych.selector" . }}
app.kubernetes.io/part-of: triptych
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{/* All components of a stage share one Service, by which the orchestrator finds them: another one in `more` is found
without a change to the orchestrator. Take (dict "root" $ "service" "decoder"). */}}
{{- define "triptych.stage" -}}
{{- include "triptych.fullname" (dict "root" .root "name" .service) -}}
{{- end -}}

{{- define "triptych.stageSelector" -}}
app.kubernetes.io/name: triptych
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
triptych/service: {{ .service }}
{{- end -}}

{{- define "triptych.image" -}}
{{- $of := .of -}}
{{- $name := printf "%s%s" .root.Values.imagePrefix ($of.image.name | default (printf "triptych-%s" .service)) -}}
{{- $variant := "" -}}
{{- if ne .service "orchestrator" -}}{{- $variant = ternary "-gpu" "-cpu" (gt (int $of.gpu.count) 0) -}}{{- end -}}
{{- if $of.image.digest -}}
{{- printf "%s@%s" $name $of.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name ($of.image.tag | default (printf "%s%s" .root.Chart.AppVersion $variant)) -}}
{{- end -}}
{{- end -}}

{{/* All components by name, each laid over `defaults`: {"encoder": {..., "service": "encoder"}, ...}. Disabled ones are
left out. */}}
{{- define "triptych.components" -}}
{{- $values := .Values -}}
{{- $all := dict -}}
{{- range $service := list "encoder" "llm" "decoder" "orchestrator" -}}
{{- $_ := set $all $service (merge (dict "service" $service) (index $values $service)) -}}
{{- end -}}
{{- $taken := list "trainer" "redis" "ca" -}}
{{- range $values.trainer.workers -}}{{- $taken = append $taken (printf "trainer-%s" .name) -}}{{- end -}}
{{- range $name, $own := $values.more -}}
{{- if or (hasKey $all $name) (has $name $taken) -}}
{{- fail (printf "more.%s: the name is taken" $name) -}}
{{- end -}}
{{- $_ := set $all $name $own -}}
{{- end -}}
{{- $enabled := dict -}}
{{- range $name, $own := $all -}}
{{- $of := mergeOverwrite (deepCopy $values.defaults) (deepCopy $own) -}}
{{- if $of.enabled -}}{{- $_ := set $enabled $name $of -}}{{- end -}}
{{- end -}}
{{- toJson $enabled -}}
{{- end -}}

{{/* No two services have a port in common: where pods share a network (podman), they run side by side. */}}
{{- define "triptych.port" -}}
{{- index (dict "orchestrator" 50050 "encoder" 50051 "llm" 50052 "decoder" 50053) . -}}
{{- end -}}
{{- define "triptych.metricsPort" -}}
{{- index (dict "orchestrator" 9090 "encoder" 9091 "llm" 9092 "decoder" 9093) . -}}
{{- end -}}
{{- define "triptych.healthPort" -}}
{{- index (dict "orchestrator" 8080 "encoder" 8081 "llm" 8082 "decoder" 8083) . -}}
{{- end -}}
