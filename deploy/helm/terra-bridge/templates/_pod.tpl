{{- define "terra-bridge.pod" -}}
metadata:
  labels:
    {{- include "terra-bridge.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    # A changed configuration restarts the pods. Changed secrets are read without that.
    checksum/config: {{ include "terra-bridge.config" . | sha256sum }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "terra-bridge.serviceAccount" . }}
  automountServiceAccountToken: false
  # Or a Service of that name puts TERRA_BRIDGE_PORT and more into the environment.
  enableServiceLinks: false
  # preStop, then server.drain_timeout, then some room.
  terminationGracePeriodSeconds: {{ add .Values.preStop (include "terra-bridge.seconds" (default "20s" .Values.config.server.drain_timeout)) 15 }}
  securityContext:
    runAsNonRoot: true
    {{- with .Values.user }}
    runAsUser: {{ int64 . }}
    runAsGroup: {{ int64 . }}
    fsGroup: {{ int64 . }}
    {{- end }}
    {{- if .Values.persistence.enabled }}
    fsGroupChangePolicy: OnRootMismatch
    {{- end }}
    seccompProfile:
      type: RuntimeDefault
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- range .Values.topologyKeys }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "terra-bridge.selector" $ | nindent 10 }}
    {{- end }}
  containers:
    - {{ include "terra-bridge.container" . | nindent 6 | trim }}
  volumes:
    - name: config
      configMap:
        name: {{ include "terra-bridge.name" . }}
    - name: secrets
      secret:
        secretName: {{ include "terra-bridge.secret" . }}
        defaultMode: 0440
    {{- with .Values.volumes }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- range $key := list "nodeSelector" "tolerations" "affinity" }}
  {{- with get $.Values $key }}
  {{ $key }}: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
{{- end }}

{{- define "terra-bridge.container" -}}
name: terra-bridge
image: {{ printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  # Not an argument, so that it also holds for `kubectl exec … terra-bridge check`.
  - name: TERRA_BRIDGE_CONFIG
    value: /etc/terra-bridge/terra-bridge.toml
  {{- with .Values.env }}{{ toYaml . | nindent 2 }}{{ end }}
ports:
  - name: http
    containerPort: {{ include "terra-bridge.port" (dict "of" .Values.config.server.listen "or" 8080) }}
  - name: admin
    containerPort: {{ include "terra-bridge.port" (dict "of" .Values.config.admin.listen "or" 8081) }}
  {{- with include "terra-bridge.readers" . }}
  - name: read
    containerPort: {{ . }}
  {{- end }}
startupProbe:
  httpGet:
    path: /livez
    port: admin
  periodSeconds: 1
  {{- if .Values.persistence.enabled }}
  # A log or a spool of some GB is read back first.
  failureThreshold: 300
  {{- else }}
  failureThreshold: 30
  {{- end }}
livenessProbe:
  httpGet:
    path: /livez
    port: admin
  periodSeconds: 10
  timeoutSeconds: 3
readinessProbe:
  httpGet:
    path: /readyz
    port: admin
  periodSeconds: 5
  timeoutSeconds: 3
lifecycle:
  preStop:
    sleep:
      seconds: {{ .Values.preStop }}
resources:
  requests:
    cpu: {{ .Values.cpu.request }}
    memory: {{ .Values.memory.request }}
  limits:
    # What `terra-bridge check` prints as "Memory", and room for the kernel's buffers.
    memory: {{ printf "%vMi" (add .Values.memory.bound .Values.memory.buffers) }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts:
  - name: config
    mountPath: /etc/terra-bridge
    readOnly: true
  - name: secrets
    mountPath: /run/secrets/terra-bridge
    readOnly: true
  {{- if .Values.persistence.enabled }}
  - name: data
    mountPath: /var/lib/terra-bridge
  {{- end }}
  {{- with .Values.volumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}
