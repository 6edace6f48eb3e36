{{- /* What would lose events, or could not run. */}}
{{- define "terra-bridge.checks" -}}
{{- $config := .Values.config }}
{{- $embedded := eq (include "terra-bridge.bus" .) "embedded" }}
{{- $dirs := dict "config.spool.dir" (default dict $config.spool).dir "config.embedded.dir" (default dict $config.embedded).dir }}
{{- if not $embedded }}{{ $_ := unset $dirs "config.embedded.dir" }}{{ end }}
{{- if and $embedded (not .Values.persistence.enabled) }}
{{- fail "config.bus: the embedded log would go with its pod: set persistence.enabled" }}
{{- end }}
{{- if and $embedded (ne (int .Values.replicas) 1) }}
{{- fail "replicas: each replica would have an embedded log of its own, with a part of the events: set it to 1, or use Kafka or NATS" }}
{{- end }}
{{- if and .Values.autoscaling.enabled .Values.persistence.enabled }}
{{- fail "autoscaling.enabled: a replica that goes would leave behind what its volume has: switch it off, or persistence" }}
{{- end }}
{{- range $key, $dir := $dirs }}
{{- if and $dir (not $.Values.persistence.enabled) }}
{{- fail (printf "%s: what is in it would go with its pod: set persistence.enabled" $key) }}
{{- end }}
{{- if and $dir (not (hasPrefix "/var/lib/terra-bridge/" $dir)) }}
{{- fail (printf "%s: the volume is mounted at /var/lib/terra-bridge: choose a directory below it" $key) }}
{{- end }}
{{- end }}
{{- range $key, $listen := dict "config.server.listen" $config.server.listen "config.admin.listen" $config.admin.listen }}
{{- if regexMatch "^(127\\.|\\[::1\\])" $listen }}
{{- fail (printf "%s: only the pod itself reaches %s: use 0.0.0.0 or [::]" $key $listen) }}
{{- end }}
{{- end }}
{{- end }}
