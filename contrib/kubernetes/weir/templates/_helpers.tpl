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

{{- define "weir.replicas" -}}
{{- if kindIs "invalid" .Values.replicas }}{{ .Values.replicaCount }}{{ else }}{{ .Values.replicas }}{{ end }}
{{- end }}

{{/*
weir.env has the keys of the configuration that are values of this chart, and the
pod's address. Secrets are files.
*/}}
{{- define "weir.env" -}}
{{- with .Values.redis.url }}
- {name: WEIR_CACHE_REDIS_URL, value: {{ . | quote }}}
{{- end }}
{{- if .Values.cluster.enabled }}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- {name: WEIR_CLUSTER_ADVERTISE, value: {{ ternary "http://[$(POD_IP)]:8001" "http://$(POD_IP):8001" .Values.cluster.ipv6 | quote }}}
- {name: WEIR_CLUSTER_PEER_PORT, value: "8001"}
- {name: WEIR_CLUSTER_SECRET_FILE, value: {{ printf "/run/secrets/weir/%s" .Values.cluster.secretKey | quote }}}
{{- end }}
{{- with .Values.s3 }}
{{- if .enabled }}
- {name: WEIR_BLOB_STORE_S3_ENDPOINT, value: {{ .endpoint | quote }}}
- {name: WEIR_BLOB_STORE_S3_BUCKET, value: {{ .bucket | quote }}}
{{- with .region }}
- {name: WEIR_BLOB_STORE_S3_REGION, value: {{ . | quote }}}
{{- end }}
{{- with .keyPrefix }}
- {name: WEIR_BLOB_STORE_S3_KEY_PREFIX, value: {{ . | quote }}}
{{- end }}
{{- if .accessKeyId }}
- {name: WEIR_BLOB_STORE_S3_ACCESS_KEY_ID, value: {{ .accessKeyId | quote }}}
- {name: WEIR_BLOB_STORE_S3_SECRET_KEY_FILE, value: {{ printf "/run/secrets/weir/%s" .secretKey | quote }}}
{{- end }}
{{- with .localSize }}
- {name: WEIR_BLOB_STORE_FS_MAX_SIZE, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}
