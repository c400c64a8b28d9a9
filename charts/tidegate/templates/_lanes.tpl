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
      {{- with .zone }}
      nodeSelector: {topology.kubernetes.io/zone: {{ . | quote }}}
      {{- end }}
  {{- end }}
{{- end }}
