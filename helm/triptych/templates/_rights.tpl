{{/* Whether a component watches EndpointSlices: the orchestrator, if it is told to. */}}
{{- define "triptych.watches" -}}
{{- and (eq .service "orchestrator") (eq (get .of "discovery" | default "names") "endpointslices") -}}
{{- end -}}

{{/* To read the EndpointSlices of its namespace, and nothing else. */}}
{{- define "triptych.rights" -}}
{{- $fullname := include "triptych.fullname" . }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $fullname }}
  labels: {{- include "triptych.labels" . | nindent 4 }}
rules:
  - apiGroups: [discovery.k8s.io]
    resources: [endpointslices]
    verbs: [get, list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $fullname }}
  labels: {{- include "triptych.labels" . | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $fullname }}}
subjects:
  - {kind: ServiceAccount, name: {{ $fullname }}, namespace: {{ .root.Release.Namespace | quote }}}
{{- end -}}
