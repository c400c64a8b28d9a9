{{/* The Secret with the URL of each region's shared cache lane, if there are such lanes. */}}
{{- define "tidegate.cacheSecret" -}}
{{ .Values.cache.existingSecret | default (.Values.cache.shared.enabled | ternary (printf "%s-cache" (include "tidegate.fullname" .)) "") }}
{{- end }}

{{- define "tidegate.bundledSharedLanes" -}}
{{ if and .Values.cache.shared.enabled (not .Values.cache.existingSecret) }}true{{ end }}
{{- end }}

{{/* What the user of a lane may do: RULES in operator/tidegate_operator/lane_objects.py. */}}
{{- define "tidegate.laneRules" -}}
~tg:1:cache:* +evalsha +script|load +time +hget +hset +hdel +hlen +pttl +pexpire +unlink +scan
{{- end }}

{{/* Where the operator makes dedicated cache lanes and of what: the JSON that operator/tidegate_operator/lane_site.py reads. */}}
{{- define "tidegate.laneSite" -}}
labels: {{- include "tidegate.selector" (dict "root" $ "component" "lane") | nindent 2 }}
  app.kubernetes.io/part-of: tidegate
container:
  image: {{ include "tidegate.image" (list $ .Values.redis.image) }}
  imagePullPolicy: {{ .Values.redis.image.pullPolicy }}
  resources: {requests: {cpu: {{ .Values.cache.dedicated.cpu | quote }}}}
  securityContext: {{- include "tidegate.containerSecurity" . | nindent 4 }}
regions:
  {{- range .Values.regions }}
  {{ .name | quote }}:
    clients: {{- include "tidegate.selector" (dict "root" $ "component" "api" "region" .name) | nindent 6 }}
    pod:
      securityContext: {{- include "tidegate.podSecurity" $ | nindent 8 }}
      {{- include "tidegate.scheduling" (dict "root" $ "zone" .zone "values" $.Values.cache) | nindent 6 }}
  {{- end }}
{{- end }}
