{{- define "weir.name" -}}
{{- if contains "weir" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-weir" .Release.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "weir.selector" -}}
app.kubernetes.io/name: weir
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "weir.labels" -}}
{{ include "weir.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "weir.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "weir.name" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{/*
weir.checkConfig fails if config names an address or a port at which the Service and
the probes do not reach the pod. It reads TOML by lines, since older versions of Helm
have no function for it.
*/}}
{{- define "weir.checkConfig" -}}
{{- $table := "" }}
{{- range $line := splitList "\n" .Values.config }}
  {{- $line = trim $line }}
  {{- if hasPrefix "[" $line }}
    {{- $table = regexReplaceAll "[\\[\\]\"'\\s]" (regexFind "^[^#]*" $line) "" }}
  {{- else if and (eq $table "server") (regexMatch "^[\"']?(bind_address|port)[\"']?\\s*=" $line) }}
    {{- include "weir.checkServer" $line }}
  {{- else if and (eq $table "") (regexMatch "^[\"']?server[\"']?\\s*(=|\\.\\s*[\"']?(bind_address|port)\\b)" $line) }}
    {{- include "weir.checkServer" $line }}
  {{- end }}
{{- end }}
{{- end }}

{{/* weir.checkServer checks the keys of table server in one line. */}}
{{- define "weir.checkServer" -}}
{{- $address := regexFind "\\bbind_address[\"']?\\s*=\\s*(\"[^\"]*\"|'[^']*')" . }}
{{- if $address }}
  {{- $address = regexReplaceAll "^.*=\\s*.|.$" $address "" | lower }}
  {{- if regexMatch "^(localhost\\.?|.*\\.localhost\\.?|ip6-(localhost|loopback)|127(\\..*)?|\\[?(0*:)*:?0*1\\]?|\\[?(0*:)*:?ffff:127\\..*)$" $address }}
    {{- fail (printf "config: server.bind_address is %s, which no client outside of the pod reaches. Remove it, or set it to 0.0.0.0" $address) }}
  {{- end }}
{{- end }}
{{- $port := regexFind "\\bport[\"']?\\s*=\\s*[^,}#\\s]+" . }}
{{- if $port }}
  {{- $port = regexReplaceAll "^.*=\\s*|[_+]" $port "" }}
  {{- if ne $port "8000" }}
    {{- fail (printf "config: server.port is %s, and the Service and the probes of this chart ask port 8000 of the pod. Remove it; service.port is the port for clients" $port) }}
  {{- end }}
{{- end }}
{{- end }}
