{{- define "tidegate.name" -}}
{{ .Values.nameOverride | default .Chart.Name }}
{{- end }}

{{/* With "-redis-" and a region of 20 characters at most 52: a StatefulSet's pods carry its name and a hash in one label of 63. */}}
{{- define "tidegate.fullname" -}}
{{- $chart := include "tidegate.name" . -}}
{{- $name := contains $chart .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $chart) | replace "." "-" -}}
{{- $short := gt (len $name) 25 | ternary (printf "%s-%s" ($name | trunc 16 | trimSuffix "-") (.Release.Name | sha256sum | trunc 8)) $name -}}
{{ .Values.fullnameOverride | default $short }}
{{- end }}

{{/* Selectors: never a version, so that an upgrade keeps them. Call with (dict "root" $ "component" "api" "region" "frankfurt"). */}}
{{- define "tidegate.selector" -}}
app.kubernetes.io/name: {{ include "tidegate.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- with .region }}
tidegate.dev/region: {{ . | quote }}
{{- end }}
{{- end }}

{{/* Of pods: no version either, or each upgrade would restart the servers, and with a region's Redis forget what customers have used. */}}
{{- define "tidegate.podLabels" -}}
{{ include "tidegate.selector" . }}
app.kubernetes.io/part-of: tidegate
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{/* Own labels before those that a user adds to an object, and these before those of everything. */}}
{{- define "tidegate.labels" -}}
{{- $chart := printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" -}}
{{- $versions := dict "app.kubernetes.io/version" .root.Chart.AppVersion "helm.sh/chart" $chart -}}
{{ merge (include "tidegate.podLabels" . | fromYaml) $versions (.extraLabels | default dict) .root.Values.commonLabels | toYaml }}
{{- end }}

{{/* What an object is called unless it has another name: release, component, region. Call with a scope. */}}
{{- define "tidegate.objectName" -}}
{{ include "tidegate.fullname" .root }}-{{ .component }}{{ with .region }}-{{ . }}{{ end }}
{{- end }}

{{/* Call with a scope and, where an object has them, "name", "annotations" and "extraLabels". */}}
{{- define "tidegate.metadata" -}}
name: {{ .name | default (include "tidegate.objectName" .) | quote }}
labels: {{- include "tidegate.labels" . | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Call with a scope, the component's "values" and, where its pods have some, "annotations". */}}
{{- define "tidegate.podMetadata" -}}
{{- $values := .values -}}
labels: {{- merge (include "tidegate.podLabels" . | fromYaml) $values.podLabels .root.Values.commonLabels | toYaml | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) $values.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where the pods of a component run, and who is asked for their images. Call with a scope, its "values" and, for pods of one zone, "zone". */}}
{{- define "tidegate.scheduling" -}}
{{- $values := .values -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with merge (empty .zone | ternary (dict) (dict "topology.kubernetes.io/zone" .zone)) $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with merge (dict) (.affinity | default dict) $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{/* Over which nodes the pods of a component and region are spread. Call with a scope and the component's "values". */}}
{{- define "tidegate.spread" -}}
topologySpreadConstraints:
  {{- with .values.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "tidegate.selector" . | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- if not $.zone }}
  # A constraint of a pod's own does away with the scheduler's, which spread over zones too.
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "tidegate.selector" $ | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
  {{- end }}
{{- end }}

{{/* Name of a component's service account, the same in all regions. Call with a scope and the component's "values". */}}
{{- define "tidegate.serviceAccount" -}}
{{- $values := .values -}}
{{ $values.serviceAccount.name | default ($values.serviceAccount.create | ternary (include "tidegate.objectName" (omit . "region")) "default") }}
{{- end }}

{{/* How the Service of all regions chooses, where the cluster's version has a way to say so. */}}
{{- define "tidegate.trafficDistribution" -}}
{{- $version := .Capabilities.KubeVersion.Version -}}
{{- if eq .Values.service.trafficDistribution "auto" -}}
{{ if semverCompare ">=1.34.0-0" $version }}PreferSameZone{{ else if semverCompare ">=1.31.0-0" $version }}PreferClose{{ end }}
{{- else if ne .Values.service.trafficDistribution "none" -}}
{{ .Values.service.trafficDistribution }}
{{- end -}}
{{- end }}

{{/* By which an edge finds the API pods of a region; before its name, for a region may be called "eu" and another "eu-pods". */}}
{{- define "tidegate.podsName" -}}
{{ include "tidegate.objectName" (dict "root" (index . 0) "component" "pods" "region" (index . 1)) }}
{{- end }}

{{/* How an edge finds hosts: each address of a name is one, and names are asked for anew each second, as pods come and go. */}}
{{- define "tidegate.foundByName" -}}
name: envoy.clusters.dns
typed_config:
  "@type": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster
  dns_refresh_rate: 1s
  dns_lookup_family: V4_PREFERRED
{{- end }}

{{/* The edge of a region: the bootstrap of the local run, with the pods of all regions as they are found by name. Call with (list $ "frankfurt"). */}}
{{- define "tidegate.edgeBootstrap" -}}
{{- $root := index . 0 }}{{ $own := index . 1 }}{{ $endpoints := list -}}
{{- range $root.Values.regions }}
{{- $address := dict "socket_address" (dict "address" (include "tidegate.podsName" (list $root .name)) "port_value" 8000) }}
{{- $found := list (dict "endpoint" (dict "address" $address)) }}
{{- $endpoints = append $endpoints (dict "priority" (eq .name $own | ternary 0 1) "locality" (dict "region" .name) "lb_endpoints" $found) }}
{{- end }}
{{- $config := $root.Files.Get "files/edge.yaml" | fromYaml }}
{{- $_ := set (first $config.static_resources.listeners) "address" (dict "socket_address" (dict "address" "0.0.0.0" "port_value" 8080)) }}
{{- $assignment := dict "cluster_name" "api" "endpoints" $endpoints "policy" (dict "overprovisioning_factor" 200) }}
{{- /* While half of a region's pods are well, it gets everything. */}}
{{- $found := dict "cluster_type" (include "tidegate.foundByName" . | fromYaml) "load_assignment" $assignment }}
{{- range $key, $value := $found }}{{ $_ := set (first $config.static_resources.clusters) $key $value }}{{ end }}
{{- with $root.Values.edge.peers }}{{ include "tidegate.addPeers" (list . $config) }}{{ end }}
{{- toYaml $config }}
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

{{/* The Secret of the user that names the store, if there is one. */}}
{{- define "tidegate.existingStoreSecret" -}}
{{ .Values.store.existingSecret | default (eq .Values.store.type "Redis" | ternary .Values.redis.existingSecret "") }}
{{- end }}

{{/* Type of the store that is installed; empty where a Secret names another. */}}
{{- define "tidegate.bundledStore" -}}
{{ if not (include "tidegate.existingStoreSecret" .) }}{{ .Values.store.type }}{{ end }}
{{- end }}

{{- define "tidegate.storeName" -}}
{{ include "tidegate.fullname" . }}-store
{{- end }}

{{- define "tidegate.membersSecret" -}}
{{ .Values.store.etcd.tls.existingSecret | default (printf "%s-tls" (include "tidegate.storeName" .)) }}
{{- end }}

{{/* What workers need to reach the store besides its URL: a Secret that is mounted at /etc/tidegate/store, if there is one. */}}
{{- define "tidegate.storeFilesSecret" -}}
{{- if eq (include "tidegate.bundledStore" .) "Etcd" -}}
{{ .Values.store.etcd.tls.existingClientSecret | default (printf "%s-client-tls" (include "tidegate.storeName" .)) }}
{{- else -}}
{{ .Values.store.existingSecret }}
{{- end }}
{{- end }}

{{/* Members of etcd with a port. Call with (list $ "%s.%s:2379"): the format gets the pod and the Service. */}}
{{- define "tidegate.members" -}}
{{- $root := index . 0 }}{{ $format := index . 1 }}{{ $name := include "tidegate.storeName" $root }}{{ $members := list -}}
{{- range $ordinal := until (int $root.Values.store.etcd.replicas) }}{{ $members = append $members (printf $format (printf "%s-%d" $name $ordinal) $name) }}{{ end -}}
{{ join "," $members }}
{{- end }}

{{/* Bytes of a quantity of Kubernetes, or of a size as Valkey writes it; 0 where it is written in yet another way. */}}
{{- define "tidegate.bytes" -}}
{{- $text := kindIs "string" . | ternary . (int64 . | toString) -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "mb" 1048576 "gb" 1073741824 -}}
{{- $unit := regexFind "[A-Za-z]*$" $text -}}
{{- if and (hasKey $units $unit) (regexMatch "^[0-9]+([.][0-9]+)?[A-Za-z]*$" $text) -}}
{{ mulf (regexFind "^[0-9.]+" $text) (get $units $unit) | int64 }}
{{- else }}0{{ end }}
{{- end }}

{{- define "tidegate.storeBytes" -}}
{{ include "tidegate.bytes" .Values.store.size }}
{{- end }}

{{/* The one volume of each pod of a StatefulSet. Call with (list $ .Values.store). */}}
{{- define "tidegate.volumeClaims" -}}
{{- $values := index . 1 -}}
- metadata:
    name: data
  spec:
    accessModes: [ReadWriteOnce]
    {{- with $values.storageClassName }}
    storageClassName: {{ . | quote }}
    {{- end }}
    resources:
      requests: {storage: {{ $values.size }}}
{{- end }}

{{/* Refuses other volumes than a StatefulSet was made with. Call with (list "store" $claims $values). */}}
{{- define "tidegate.requireVolumes" -}}
{{- $path := index . 0 }}{{ $values := index . 2 }}
{{- range index . 1 }}
{{- $size := .spec.resources.requests.storage }}{{ $class := .spec.storageClassName | default "" }}
{{- if ne (include "tidegate.bytes" $size) (include "tidegate.bytes" $values.size) }}
{{- fail (printf "%s.size: the volumes of this release were made with %s, and a cluster changes no volume of a StatefulSet: keep it, and to grow them resize the PersistentVolumeClaims" $path $size) }}
{{- end }}
{{- if and $values.storageClassName (ne $class $values.storageClassName) }}
{{- fail (printf "%s.storageClassName: the volumes of this release were made with class %q, and a cluster changes no volume of a StatefulSet: keep it" $path $class) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Refuses a Secret or ConfigMap that is there and lacks a key. Call with (list $ "Secret" "keys.existingSecret" $name (list "identity.key")). */}}
{{- define "tidegate.requireKeys" -}}
{{- $kind := index . 1 }}{{ $value := index . 2 }}{{ $name := index . 3 -}}
{{- with and $name (lookup "v1" $kind (index . 0).Release.Namespace $name) }}
{{- $held := merge (dict) (.data | default dict) (.binaryData | default dict) }}
{{- range $key := index $ 4 }}
{{- if not (hasKey $held $key) }}
{{- fail (printf "%s: %s %q has no %s; add it, as the comment on that value says" $value $kind $name $key) }}
{{- end }}
{{- end }}
{{- end }}
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

{{/*
Restarts the pods when the passwords, or the users of a seed, change. Cut short: a whole checksum would let a guessed seed be checked by whoever may see pods.
*/}}
{{- define "tidegate.passwordsChecksum" -}}
checksum/passwords: {{ and .Values.redis.passwordSeed (printf "%s/users" .Values.redis.passwordSeed) | sha256sum | trunc 8 | quote }}
{{- end }}

{{/* A peer: the pods of a component of this release. Call with (dict "root" $ "component" "api" "region" "frankfurt"). */}}
{{- define "tidegate.peer" -}}
- podSelector:
    matchLabels: {{- include "tidegate.selector" . | nindent 6 }}
{{- end }}

{{/* Who reaches what answers requests: whom the values name, and this release; nobody is named: anybody. */}}
{{- define "tidegate.publicFrom" -}}
{{- with .Values.networkPolicy.ingressFrom }}
from:
  {{- range $component := list "edge" "test" }}
  {{- include "tidegate.peer" (dict "root" $ "component" $component) | nindent 2 }}
  {{- end }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Names are asked of whoever answers to that in the cluster, at its own port in some. */}}
{{- define "tidegate.egressToNames" -}}
- ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - {protocol: UDP, port: {{ . }}}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}

{{/* Servers that a Secret names are unknown here: to where the values say, else to anywhere. */}}
{{- define "tidegate.egressToServers" -}}
{{- with .Values.networkPolicy.serversTo }}
- to: {{- toYaml . | nindent 4 }}
{{- else }}
- {}
{{- end }}
{{- end }}

{{/* Values of what decides how many API pods there are, as JSON; empty: `api.replicas` does. */}}
{{- define "tidegate.scaler" -}}
{{- if .Values.api.autoscaling.enabled }}{{ toJson .Values.api.autoscaling }}{{ else if .Values.api.keda.enabled }}{{ toJson .Values.api.keda }}{{ end }}
{{- end }}

{{- define "tidegate.leastReplicas" -}}
{{ with include "tidegate.scaler" . }}{{ (fromJson .).minReplicas }}{{ else }}{{ .Values.api.replicas }}{{ end }}
{{- end }}

{{/* As many pods as a Deployment has when a scaler takes it over: taken out, the number would fall to 1 until the scaler acts. Empty from when no
  release holds the number, for then it stays; and one of ours, as of a release that is rolled back to, would be refused as a conflict with the
  scaler's. Where Helm merges by itself, as Helm 3 does, it always falls. Call with a scope. */}}
{{- define "tidegate.replicasBeforeScaler" -}}
{{- with lookup "apps/v1" "Deployment" .root.Release.Namespace (include "tidegate.objectName" .) }}
{{- $isApplied := false }}{{ $isHeld := false }}{{ $isScaled := false }}
{{- range .metadata.managedFields }}
{{- if eq (.subresource | default "") "scale" }}{{ $isScaled = true }}{{ end }}
{{- if eq .operation "Apply" }}
{{- $isApplied = true }}
{{- if hasKey (dig "f:spec" dict .fieldsV1) "f:replicas" }}{{ $isHeld = true }}{{ end }}
{{- end }}
{{- end }}
{{- if or (not $isApplied) (and $isHeld (not $isScaled)) }}{{ .spec.replicas }}{{ end }}
{{- end }}
{{- end }}

{{- define "tidegate.podSecurity" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- with int .Values.runAsUser }}
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
{{- end }}
{{- end }}

{{- define "tidegate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
