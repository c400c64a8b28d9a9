{{/* With "-redis-" and a region of 20 characters at most 52: a StatefulSet's pods carry its name and a hash in one label of 63. */}}
{{- define "tidegate.fullname" -}}
{{- $name := contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) | replace "." "-" -}}
{{ gt (len $name) 25 | ternary (printf "%s-%s" ($name | trunc 16 | trimSuffix "-") (.Release.Name | sha256sum | trunc 8)) $name }}
{{- end }}

{{/* Selectors: never a version, so that an upgrade keeps them. Call with (dict "root" $ "component" "api" "region" "frankfurt"). */}}
{{- define "tidegate.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- with .region }}
tidegate.dev/region: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "tidegate.labels" -}}
{{ include "tidegate.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tidegate
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Call with (list $ .Values.api.image). */}}
{{- define "tidegate.image" -}}
{{- $root := index . 0 }}{{ $image := index . 1 -}}
{{ with $image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "tidegate.keysSecret" -}}
{{ .Values.keys.existingSecret | default (printf "%s-keys" (include "tidegate.fullname" .)) }}
{{- end }}

{{- define "tidegate.redisSecret" -}}
{{ .Values.redis.existingSecret | default (printf "%s-redis" (include "tidegate.fullname" .)) }}
{{- end }}

{{- define "tidegate.tokensConfigMap" -}}
{{ .Values.tokens.existingConfigMap | default (printf "%s-tokens" (include "tidegate.fullname" .)) }}
{{- end }}

{{/* What a Secret already holds under a key, else a fresh random text. Call with (list $secret "key"). */}}
{{- define "tidegate.keptOrRandom" -}}
{{- $kept := dig "data" (index . 1) "" (index . 0 | default dict) -}}
{{ if $kept }}{{ $kept | b64dec }}{{ else }}{{ randAlphaNum 43 }}{{ end }}
{{- end }}

{{/* Password of a bundled server. Call with (list $ $secret "frankfurt"). */}}
{{- define "tidegate.password" -}}
{{- $seed := (index . 0).Values.redis.passwordSeed -}}
{{ if $seed }}{{ printf "%s/%s" $seed (index . 2) | sha256sum | trunc 43 }}{{ else }}{{ include "tidegate.keptOrRandom" (list (index . 1) (printf "%s.password" (index . 2))) }}{{ end }}
{{- end }}

{{/* Restarts the pods when the passwords change. Cut short: a whole checksum would let a guessed seed be checked by whoever may see pods. */}}
{{- define "tidegate.passwordsChecksum" -}}
checksum/passwords: {{ .Values.redis.passwordSeed | sha256sum | trunc 8 | quote }}
{{- end }}

{{- define "tidegate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "tidegate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "tidegate.zone" -}}
{{- with .zone }}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - {key: topology.kubernetes.io/zone, operator: In, values: [{{ . | quote }}]}
{{- end }}
{{- end }}
