{{/*
Labels of every object. Takes a dict: context (the root), component, extra (labels of this object;
they win over `commonLabels`, and nothing wins over what selects pods).
*/}}
{{- define "meshgraft.labels" -}}
{{- $labels := dict
  "app.kubernetes.io/part-of" "meshgraft"
  "app.kubernetes.io/version" .context.Chart.AppVersion
  "app.kubernetes.io/managed-by" (.context.Values.managedBy | default .context.Release.Service) }}
{{- $selector := include "meshgraft.selector" .component | fromYaml }}
{{- toYaml (mergeOverwrite $labels .context.Values.commonLabels (.extra | default dict) $selector) }}
{{- end }}

{{/* Labels that select pods: they never change, because a Deployment's selector cannot. */}}
{{- define "meshgraft.selector" -}}
app.kubernetes.io/name: meshgraft
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* The injector's image. */}}
{{- define "meshgraft.image" -}}
{{ .Values.meshgraft.image.name }}:{{ .Values.meshgraft.image.version | default .Chart.AppVersion }}
{{- end }}

{{/* Requests and limits from Linkerd's shape (cpu.request, memory.limit, ...). */}}
{{- define "meshgraft.resources" -}}
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

{{/* Where to listen: all addresses of the families that are in use. */}}
{{- define "meshgraft.anyAddress" -}}
{{ ternary "0.0.0.0" "[::]" .Values.disableIPv6 }}
{{- end }}

{{/* Whether the Secret with the certificate is mounted, and not handled by the injector itself. */}}
{{- define "meshgraft.mountsCertificate" -}}
{{- if ne .Values.certificates.mode "self" }}true{{ end }}
{{- end }}

{{/*
The settings of the injector, in the shape of `webhook --values`: what is no other part of this
chart's values. The image's version is spelled out: this is the chart's version, and not the
injector's to guess.
*/}}
{{- define "meshgraft.injectorValues" -}}
{{- $values := pick .Values
  "linkerdVersion" "clusterDomain" "clusterNetworks" "identityTrustDomain"
  "identityTrustAnchorsPEM" "linkerdNamespace" "imagePullPolicy" "imagePullSecrets" "cniEnabled"
  "disableIPv6" "identity" "enableDebugSidecar" "proxy" "proxyInit" "networkValidator"
  "debugContainer" }}
{{- $ours := deepCopy .Values.meshgraft }}
{{- $_ := set $ours.image "version" (.Values.meshgraft.image.version | default .Chart.AppVersion) }}
{{- $_ := set $values "meshgraft" $ours }}
{{- toYaml $values }}
{{- end }}

{{/* Namespaces that the webhook never sees, whatever its selectors say. */}}
{{- define "meshgraft.ownNamespaces" -}}
{{- $own := list .Release.Namespace "meshgraft" "linkerd-cni" }}
{{- if eq .Values.certificates.mode "cert-manager" }}
{{- /* It issues the certificate without which no pod of its own could start. */}}
{{- $own = append $own "cert-manager" }}
{{- end }}
{{- uniq $own | toJson }}
{{- end }}
