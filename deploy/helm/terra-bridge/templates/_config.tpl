{{- /* The configuration as YAML: `config`, and where the embedded log lies. */}}
{{- define "terra-bridge.config" -}}
{{- $config := deepCopy .Values.config }}
{{- if eq (include "terra-bridge.bus" .) "embedded" }}
{{- $embedded := default dict $config.embedded }}
{{- if not $embedded.dir }}{{ $_ := set $embedded "dir" "/var/lib/terra-bridge/log" }}{{ end }}
{{- $_ := set $config "embedded" $embedded }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{- define "terra-bridge.bus" -}}
{{- default "embedded" .Values.config.bus }}
{{- end }}

{{- /* A map as TOML: single keys first, then a table for each map, with dotted keys in it. Helm's own toToml writes the
whole numbers of a values file as floats. */}}
{{- define "terra-bridge.toml" -}}
{{- range $key, $value := . }}
{{- if not (kindIs "map" $value) }}
{{- include "terra-bridge.toml.keys" (dict "prefix" "" "map" (dict $key $value)) }}
{{- end }}
{{- end }}
{{- range $key, $value := . }}
{{- if kindIs "map" $value }}

[{{ include "terra-bridge.toml.key" $key }}]
{{- include "terra-bridge.toml.keys" (dict "prefix" "" "map" $value) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "terra-bridge.toml.keys" -}}
{{- $prefix := .prefix }}
{{- range $key, $value := .map }}
{{- $name := printf "%s%s" $prefix (include "terra-bridge.toml.key" $key) }}
{{- if kindIs "map" $value }}
{{- include "terra-bridge.toml.keys" (dict "prefix" (printf "%s." $name) "map" $value) }}
{{- else if not (kindIs "invalid" $value) }}
{{ $name }} = {{ include "terra-bridge.toml.value" $value }}
{{- end }}
{{- end }}
{{- end }}

{{- define "terra-bridge.toml.key" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toRawJson . }}{{ end }}
{{- end }}

{{- define "terra-bridge.toml.value" -}}
{{- if kindIs "slice" . }}
{{- $values := list }}
{{- range . }}{{ $values = append $values (include "terra-bridge.toml.value" .) }}{{ end }}
{{- printf "[%s]" (join ", " $values) }}
{{- else if and (kindIs "float64" .) (eq (floor .) .) }}
{{- int64 . }}
{{- else }}
{{- toRawJson . }}
{{- end }}
{{- end }}

{{- /* The port at the end of an address or a URL; `or` where it has none. */}}
{{- define "terra-bridge.port" -}}
{{- default (toString .or) (regexFind ":[0-9]+$" (regexReplaceAll "^([a-z]+://[^/]*).*" .of "${1}") | trimPrefix ":") }}
{{- end }}

{{- /* A duration as the bridge writes it, such as 1m 30s or 7.5s, in whole seconds, rounded up. */}}
{{- define "terra-bridge.seconds" -}}
{{- $scales := dict "d" 86400 "h" 3600 "m" 60 "s" 1 "ms" 0.001 }}
{{- $sum := 0.0 }}
{{- range regexFindAll "[0-9.]+ *[a-z]+" . -1 }}
{{- $sum = addf $sum (mulf (regexFind "^[0-9.]+" . | float64) (get $scales (regexFind "[a-z]+$" .))) }}
{{- end }}
{{- ceil $sum | int }}
{{- end }}

{{- /* Whether readers of the embedded log are let in from outside the pod. */}}
{{- define "terra-bridge.readers" -}}
{{- $listen := default "127.0.0.1:8082" (default dict .Values.config.embedded).listen }}
{{- if and (eq (include "terra-bridge.bus" .) "embedded") (not (regexMatch "^(127\\.|\\[::1\\])" $listen)) }}
{{- include "terra-bridge.port" (dict "of" $listen "or" 8082) }}
{{- end }}
{{- end }}
