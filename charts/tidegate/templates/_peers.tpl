{{/* Port of a URL. */}}
{{- define "tidegate.urlPort" -}}
{{- $url := urlParse . -}}
{{ regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (eq $url.scheme "https" | ternary "443" "80") }}
{{- end }}

{{/* Refuses a URL whose port is none. Call with (list "payments.url" $url). */}}
{{- define "tidegate.requirePort" -}}
{{- $port := index . 1 | include "tidegate.urlPort" | int }}
{{- if or (lt $port 1) (gt $port 65535) }}
{{- fail (printf "%s: port %d is none; 1 to 65535 are" (first .) $port) }}
{{- end }}
{{- end }}

{{/* By which a peer knows its certificate; empty: none is asked for. Call with a peer. */}}
{{- define "tidegate.peerServerName" -}}
{{- $url := urlParse .url -}}
{{ if eq $url.scheme "https" }}{{ .serverName | default $url.hostname }}{{ end }}
{{- end }}

{{/* Where the authorities of a peer are: those of the image, unless a ConfigMap is named. Call with a peer. */}}
{{- define "tidegate.peerAuthority" -}}
{{ .caConfigMap | empty | ternary "/etc/ssl/certs/ca-certificates.crt" (printf "/etc/tidegate/peers/%s/ca.crt" .name) }}
{{- end }}

{{/* What tells an edge that a request has come through an edge already (RFC 8586). */}}
{{- define "tidegate.edgeMark" -}}
- {header: {key: CDN-Loop, value: tidegate-edge}, append_action: APPEND_IF_EXISTS_OR_ADD}
{{- end }}

{{/* What differs between a peer and the own regions, which are found and asked in the same way. Call with a peer. */}}
{{- define "tidegate.peerCluster" -}}
name: peer-{{ .name }}
# Of three round trips with TLS, between continents.
connect_timeout: 2s
# A name that nobody answers for must not hold up the start.
wait_for_warm_on_init: false
load_assignment:
  cluster_name: peer-{{ .name }}
  endpoints:
    - locality: {region: {{ .name | quote }}}
      lb_endpoints:
        - endpoint: {address: {socket_address: {address: {{ (urlParse .url).hostname | quote }}, port_value: {{ include "tidegate.urlPort" .url }}}}}
{{- with include "tidegate.peerServerName" . }}
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    sni: {{ . | quote }}
    common_tls_context:
      validation_context:
        trusted_ca: {filename: {{ include "tidegate.peerAuthority" $ | quote }}}
        match_typed_subject_alt_names:
          - {san_type: DNS, matcher: {exact: {{ . | quote }}}}
{{- end }}
{{- end }}

{{/* The regions of this release, and behind them the peers in the order of the values. Call with (list $names $cluster) of what is the same for all. */}}
{{- define "tidegate.anywhereCluster" -}}
name: anywhere
lb_policy: CLUSTER_PROVIDED
cluster_type:
  name: envoy.clusters.aggregate
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig
    clusters: {{ index . 0 | toJson }}
{{- toYaml (pick (index . 1) "connect_timeout" "common_lb_config" "circuit_breakers" "typed_extension_protocol_options") | nindent 0 }}
{{- end }}

{{/*
Gives the configuration of an edge its peers. A request that has come through an edge is answered by the regions of this release or by nobody: so two
edges may name each other, and none passes on what the other could not answer. Call with (list $peers $config).
*/}}
{{- define "tidegate.addPeers" -}}
{{- $config := index . 1 }}{{ $api := first $config.static_resources.clusters }}{{ $clusters := list $api }}{{ $names := list $api.name }}
{{- /* Envoy weighs each of these clusters by itself: below half of a release's pods it would ask those that are not ready, although there are peers. */}}
{{- $_ := set $api.common_lb_config.healthy_panic_threshold "value" 1 }}
{{- range index . 0 }}
{{- $cluster := merge (include "tidegate.peerCluster" . | fromYaml) (deepCopy (omit $api "load_assignment")) }}
{{- $_ := set (first $cluster.health_checks).http_health_check "host" (include "tidegate.peerServerName" . | default (urlParse .url).hostname) }}
{{- $_ := set (first $cluster.health_checks).http_health_check "request_headers_to_add" (include "tidegate.edgeMark" . | fromYamlArray) }}
{{- $clusters = append $clusters $cluster }}{{ $names = append $names $cluster.name }}
{{- end }}
{{- $anywhere := include "tidegate.anywhereCluster" (list $names $api) | fromYaml }}
{{- $_ := set $config.static_resources "clusters" (append $clusters $anywhere) }}
{{- $host := first (first (first (first $config.static_resources.listeners).filter_chains).filters).typed_config.route_config.virtual_hosts }}
{{- $route := first $host.routes }}
{{- $marked := deepCopy $route }}
{{- $_ := set $marked.match "headers" (list (dict "name" "cdn-loop" "string_match" (dict "contains" "tidegate-edge"))) }}
{{- $_ := set $route.route "cluster" $anywhere.name }}
{{- $_ := set $route "request_headers_to_add" (include "tidegate.edgeMark" . | fromYamlArray) }}
{{- $_ := set $host "routes" (list $marked $route) }}
{{- end }}
