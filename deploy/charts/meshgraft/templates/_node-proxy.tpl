{{/*
Envoy's configuration for the proxy of a node: a forward proxy by the Host header, on three ports.

- Who may use it is decided by address: a port of the node may be in reach of more than pods.
- Envoy's own admin interface is a socket in a file, not an address: a request for 127.0.0.1 would
  lead to it.
- A request that comes round again (a Host that leads back here) is stopped by its Via header.
*/}}
{{- define "meshgraft.nodeProxyConfig" -}}
{{- $any := ternary "0.0.0.0" "::" .Values.disableIPv6 }}
{{- $node := .Values.meshgraft.node }}
admin:
  address:
    pipe:
      path: /tmp/admin.sock
      mode: 384 # 0600
static_resources:
  listeners:
    {{- include "meshgraft.nodeProxyListener" (dict "root" . "name" "http" "port" $node.httpPort "codec" "HTTP1" "cluster" "forward-http1") | nindent 4 }}
    {{- include "meshgraft.nodeProxyListener" (dict "root" . "name" "http2" "port" $node.http2Port "codec" "HTTP2" "cluster" "forward-http2") | nindent 4 }}
    {{- include "meshgraft.nodeProxyListener" (dict "root" . "name" "grpc" "port" $node.grpcPort "codec" "HTTP2" "cluster" "forward-http2") | nindent 4 }}
    - name: admin
      address:
        socket_address: {address: {{ $any | quote }}, port_value: 4191, ipv4_compat: {{ not .Values.disableIPv6 }}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: admin
                route_config:
                  virtual_hosts:
                    - name: admin
                      domains: ["*"]
                      routes:
                        - match: {path: /ready}
                          route: {cluster: admin}
                        - match: {path: /metrics}
                          route: {cluster: admin, prefix_rewrite: /stats/prometheus}
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
    - name: admin
      connect_timeout: 1s
      load_assignment:
        cluster_name: admin
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    pipe: {path: /tmp/admin.sock}
    {{- include "meshgraft.nodeProxyCluster" (dict "root" . "name" "forward-http1" "protocol" "http_protocol_options") | nindent 4 }}
    {{- include "meshgraft.nodeProxyCluster" (dict "root" . "name" "forward-http2" "protocol" "http2_protocol_options") | nindent 4 }}
{{- end }}

{{/* One port of the proxy. */}}
{{- define "meshgraft.nodeProxyListener" -}}
{{- $root := .root -}}
- name: {{ .name }}
  address:
    socket_address: {address: {{ ternary "0.0.0.0" "::" $root.Values.disableIPv6 | quote }}, port_value: {{ .port }}, ipv4_compat: {{ not $root.Values.disableIPv6 }}}
  filter_chains:
    - filters:
        - name: envoy.filters.network.rbac
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC
            stat_prefix: {{ .name }}.
            rules:
              action: ALLOW
              policies:
                allowed-networks:
                  permissions: [{any: true}]
                  principals:
                    {{- range $root.Values.nodeProxy.allowFrom | default (splitList "," $root.Values.clusterNetworks) }}
                    {{- $parts := splitList "/" (trim .) }}
                    - direct_remote_ip: {address_prefix: {{ first $parts | quote }}, prefix_len: {{ last $parts }}}
                    {{- end }}
        - name: envoy.filters.network.http_connection_manager
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
            stat_prefix: {{ .name }}
            codec_type: {{ .codec }}
            via: meshgraft-node
            # What Envoy does of its own accord elsewhere: an application is not to notice.
            stream_idle_timeout: 0s
            request_timeout: 0s
            common_http_protocol_options: {idle_timeout: 3600s}
            server_header_transformation: PASS_THROUGH
            use_remote_address: false
            skip_xff_append: true
            generate_request_id: false
            preserve_external_request_id: true
            {{- if eq .codec "HTTP1" }}
            http_protocol_options: {accept_http_10: true}
            upgrade_configs: [{upgrade_type: websocket}]
            {{- end }}
            {{- if $root.Values.nodeProxy.accessLog }}
            access_log:
              - name: envoy.access_loggers.stdout
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
            {{- end }}
            route_config:
              virtual_hosts:
                - name: {{ .name }}
                  domains: ["*"]
                  routes:
                    - match:
                        prefix: /
                        headers:
                          - name: via
                            string_match:
                              safe_regex: {regex: ".*(meshgraft-node.*){4}"}
                      direct_response:
                        status: 508
                        body: {inline_string: "this request came round to the node's proxy again and again\n"}
                    - match: {prefix: /}
                      route: {cluster: {{ .cluster }}, timeout: 0s}
            http_filters:
              {{- if eq .name "grpc" }}
              - name: envoy.filters.http.grpc_stats
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig
                  emit_filter_state: false
              {{- end }}
              - name: envoy.filters.http.dynamic_forward_proxy
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig
                  dns_cache_config: {{ include "meshgraft.nodeProxyDns" $root }}
              - name: envoy.filters.http.router
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                  suppress_envoy_headers: true
{{- end }}

{{/* Where requests go: whatever their host resolves to, by the cluster's DNS. */}}
{{- define "meshgraft.nodeProxyCluster" -}}
- name: {{ .name }}
  connect_timeout: {{ .root.Values.nodeProxy.connectTimeout }}
  lb_policy: CLUSTER_PROVIDED
  circuit_breakers:
    thresholds:
      - {max_connections: 4294967295, max_pending_requests: 4294967295, max_requests: 4294967295}
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      # Shorter than what servers allow, so that none closes a connection that is just being used.
      common_http_protocol_options: {idle_timeout: 3s}
      # Envoy insists on these for this kind of cluster; without TLS they mean nothing.
      upstream_http_protocol_options: {auto_sni: true, auto_san_validation: true}
      explicit_http_config:
        {{ .protocol }}: {}
  cluster_type:
    name: envoy.clusters.dynamic_forward_proxy
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig
      dns_cache_config: {{ include "meshgraft.nodeProxyDns" .root }}
{{- end }}

{{- define "meshgraft.nodeProxyDns" -}}
{name: cluster-dns, dns_lookup_family: {{ ternary "V4_ONLY" "V4_PREFERRED" .Values.disableIPv6 }}, max_hosts: 4096}
{{- end }}
