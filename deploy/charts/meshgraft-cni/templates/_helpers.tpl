{{/*
Labels of every object. Takes a dict: context (the root), extra (labels of this object; they win
over `commonLabels`, and nothing wins over what selects pods).
*/}}
{{- define "meshgraft-cni.labels" -}}
{{- $labels := dict
  "app.kubernetes.io/name" "meshgraft-cni"
  "app.kubernetes.io/component" "cni"
  "app.kubernetes.io/part-of" "meshgraft"
  "app.kubernetes.io/version" .context.Chart.AppVersion
  "app.kubernetes.io/managed-by" (.context.Values.managedBy | default .context.Release.Service) }}
{{- $selector := include "meshgraft-cni.selector" . | fromYaml }}
{{- $cni := dict "linkerd.io/cni-resource" "true" }}
{{- toYaml (mergeOverwrite $labels .context.Values.commonLabels (.extra | default dict) $cni $selector) }}
{{- end }}

{{/* Labels that select pods, as Linkerd's: a DaemonSet's selector cannot change. */}}
{{- define "meshgraft-cni.selector" -}}
k8s-app: linkerd-cni
{{- end }}

{{/* Requests and limits from Linkerd's shape (cpu.request, memory.limit, ...). */}}
{{- define "meshgraft-cni.resources" -}}
{{- $limits := dict }}
{{- $requests := dict }}
{{- range $name, $amount := . }}
{{- with $amount.limit }}{{ $_ := set $limits $name . }}{{ end }}
{{- with $amount.request }}{{ $_ := set $requests $name . }}{{ end }}
{{- end }}
{{- $resources := dict }}
{{- with $limits }}{{ $_ := set $resources "limits" . }}{{ end }}
{{- with $requests }}{{ $_ := set $resources "requests" . }}{{ end }}
{{- toYaml $resources }}
{{- end }}

{{/* A list of ports, written as text with commas, as JSON. */}}
{{- define "meshgraft-cni.items" -}}
{{- $items := list }}
{{- range splitList "," . }}
{{- with trim . }}{{ $items = append $items . }}{{ end }}
{{- end }}
{{- toJson $items }}
{{- end }}

{{/*
The plugin's entry in the node's network configuration. The keys below `linkerd` are Linkerd's;
there is no `kubernetes`, because no kubeconfig is ever written to a node.
*/}}
{{- define "meshgraft-cni.entry" -}}
{{- $inbound := printf "%d,%d,%s" (int64 .Values.proxyAdminPort) (int64 .Values.proxyControlPort) .Values.ignoreInboundPorts }}
{{- $linkerd := dict
  "incoming-proxy-port" (int64 .Values.inboundProxyPort)
  "outgoing-proxy-port" (int64 .Values.outboundProxyPort)
  "proxy-uid" (int64 .Values.proxyUID)
  "ports-to-redirect" (include "meshgraft-cni.items" .Values.portsToRedirect | fromJsonArray)
  "inbound-ports-to-ignore" (include "meshgraft-cni.items" $inbound | fromJsonArray)
  "simulate" false
  "use-wait-flag" .Values.useWaitFlag
  "iptables-mode" .Values.iptablesMode
  "ipv6" (not .Values.disableIPv6) }}
{{- if ge (int64 .Values.proxyGID) 0 }}
{{- $_ := set $linkerd "proxy-gid" (int64 .Values.proxyGID) }}
{{- end }}
{{- with .Values.ignoreOutboundPorts }}
{{- $_ := set $linkerd "outbound-ports-to-ignore" (include "meshgraft-cni.items" . | fromJsonArray) }}
{{- end }}
{{- with .Values.skipSubnets }}
{{- $_ := set $linkerd "subnets-to-ignore" (include "meshgraft-cni.items" . | fromJsonArray) }}
{{- end }}
{{- $entry := dict
  "name" "linkerd-cni"
  "type" "linkerd-cni"
  "log_level" .Values.logLevel
  "capabilities" (dict "io.kubernetes.cri.pod-annotations" true)
  "linkerd" $linkerd
  "meshgraft" (dict "excludeNamespaces" (append .Values.excludeNamespaces .Release.Namespace | uniq)) }}
{{- toPrettyJson $entry }}
{{- end }}
