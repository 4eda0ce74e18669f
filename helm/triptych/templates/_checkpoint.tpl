{{/* Where the component's folder comes from: a volume that is mounted at /checkpoint, and what fills or checks it. */}}
{{- define "triptych.checkpointVolume" -}}
{{- $checkpoint := .of.checkpoint -}}
- name: checkpoint
{{- if eq $checkpoint.source "pvc" }}
  persistentVolumeClaim:
    claimName: {{ $checkpoint.pvc.claimName | default (include "triptych.fullname" .) | quote }}
    readOnly: true
{{- else if eq $checkpoint.source "image" }}
  image:
    reference: {{ required (printf "%s.checkpoint.image.reference is missing" .name) $checkpoint.image.reference | quote }}
    pullPolicy: {{ $checkpoint.image.pullPolicy }}
{{- else }}
  emptyDir:
    sizeLimit: {{ $checkpoint.fetch.size }}
{{- end }}
{{- end -}}

{{- define "triptych.checkpointMount" -}}
- name: checkpoint
  mountPath: /checkpoint
  readOnly: true
{{- if and (eq .of.checkpoint.source "pvc") .of.checkpoint.pvc.subPath }}
  subPath: {{ .of.checkpoint.pvc.subPath | quote }}
{{- end }}
{{- end -}}

{{/* rclone brings what is in S3, `triptych.fetch` all else; the latter compares the digest in every case. */}}
{{- define "triptych.checkpointInit" -}}
{{- $component := . -}}
{{- $checkpoint := .of.checkpoint -}}
{{- $fetches := eq $checkpoint.source "fetch" -}}
{{- if $fetches -}}
{{- $_ := required (printf "%s.checkpoint.fetch.url is missing" .name) $checkpoint.fetch.url -}}
{{- $_ := required (printf "%s.checkpoint.digest is missing: what is fetched is compared with it" .name) $checkpoint.digest -}}
{{- end -}}
{{- $s3 := and $fetches (hasPrefix "s3://" $checkpoint.fetch.url) -}}
{{- if $s3 }}
- name: fetch-s3
  image: {{ $checkpoint.fetch.s3Image | quote }}
  imagePullPolicy: {{ .root.Values.imagePullPolicy }}
  args: [copy, {{ printf ":s3,env_auth=true:%s" (trimPrefix "s3://" $checkpoint.fetch.url) | quote }}, /checkpoint]
  {{- include "triptych.fetchEnv" . | nindent 2 }}
  securityContext: {{- include "triptych.containerSecurity" . | nindent 4 }}
  resources: {requests: {cpu: 500m, memory: 512Mi}, limits: {memory: 2Gi}}
  volumeMounts:
    - {name: checkpoint, mountPath: /checkpoint}
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- if $checkpoint.digest }}
- name: {{ ternary "fetch" "check" (and $fetches (not $s3)) }}
  image: {{ include "triptych.image" . | quote }}
  imagePullPolicy: {{ .root.Values.imagePullPolicy }}
  command: [python, -m, triptych.fetch, /checkpoint, --digest, {{ $checkpoint.digest | quote }}]
  {{- if and $fetches (not $s3) }}
  args: [--url, {{ $checkpoint.fetch.url | quote }}]
  {{- include "triptych.fetchEnv" . | nindent 2 }}
  {{- end }}
  securityContext: {{- include "triptych.containerSecurity" . | nindent 4 }}
  resources: {requests: {cpu: 500m, memory: 512Mi}, limits: {memory: 2Gi}}
  volumeMounts:
    {{- if and $fetches (not $s3) }}
    - {name: checkpoint, mountPath: /checkpoint}
    {{- else }}
    {{- include "triptych.checkpointMount" $component | nindent 4 }}
    {{- end }}
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- end -}}

{{- define "triptych.fetchEnv" -}}
{{- $fetch := .of.checkpoint.fetch -}}
env:
  {{- include "triptych.homes" . | trim | nindent 2 }}
  {{- with $fetch.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $fetch.secretName }}
envFrom:
  - secretRef: {name: {{ . | quote }}}
{{- end }}
{{- end -}}
