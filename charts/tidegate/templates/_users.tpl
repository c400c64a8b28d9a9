{{/* What the users of a region's Redis may do (docs/redis.md): by their names after `tidegate-`. */}}
{{- define "tidegate.redisUsers" -}}
api: ~tg:1:usage:* ~tg:1:{tiers}* &tg:1:tiers &tg:1:workers +evalsha +eval +script|load +time +get +set +setrange +exists +rename +hgetall +hset +hdel +hlen +publish +subscribe
operator: ~tg:1:{tiers}* &tg:1:tiers &tg:1:workers +evalsha +script|load +time +get +set +hget +hgetall +hset +hdel +publish +subscribe
support: ~tg:1:usage:* ~tg:1:{tiers} +scan +mget +time +hget +hkeys +unlink
{{- end }}

{{/* The one user of a store that is a Redis (docs/store.md). */}}
{{- define "tidegate.storeUsers" -}}
store: ~tg:1:store:* +evalsha +eval +script|load +mget +getrange +incr +set +pexpire +del +info +config|get
{{- end }}

{{/*
A bundled server, as JSON: its configuration, and by user the password and the URL. A server of before there were users keeps its one password, or an
upgrade would have to restart it, with what customers have used. Call with (list $ $kept "frankfurt" $host $users).
*/}}
{{- define "tidegate.bundledServer" -}}
{{- $root := index . 0 }}{{ $kept := index . 1 }}{{ $name := index . 2 }}{{ $host := index . 3 }}
{{- $hasUsers := not (hasPrefix "requirepass" (dig "data" (printf "%s.conf" $name) "" ($kept | default dict) | b64dec)) }}
{{- $config := "user default reset\n" }}{{ $passwords := dict }}{{ $urls := dict }}
{{- range $user, $rules := index . 4 }}
{{- $key := $hasUsers | ternary (printf "%s.%s" $name $user) $name }}
{{- $password := include "tidegate.password" (list $root $kept $key) }}
{{- $_ := set $passwords $key $password }}
{{- $_ := set $urls $user (printf "redis://%s:%s@%s:6379/0" ($hasUsers | ternary (printf "tidegate-%s" $user) "") ($password | urlquery | replace "+" "%20") $host) }}
{{- $config = $hasUsers | ternary (printf "%suser tidegate-%s reset on #%s %s\n" $config $user ($password | sha256sum) $rules) (printf "requirepass %q\n" $password) }}
{{- end }}
{{- dict "config" $config "passwords" $passwords "urls" $urls | toJson }}
{{- end }}
