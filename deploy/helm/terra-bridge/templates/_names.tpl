{{- define "terra-bridge.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "terra-bridge.selector" -}}
app.kubernetes.io/name: terra-bridge
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "terra-bridge.labels" -}}
{{ include "terra-bridge.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "terra-bridge.secret" -}}
{{- default (include "terra-bridge.name" .) .Values.secret.name }}
{{- end }}

{{- define "terra-bridge.serviceAccount" -}}
{{- default (ternary (include "terra-bridge.name" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}
