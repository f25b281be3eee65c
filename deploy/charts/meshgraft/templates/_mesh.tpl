{{/* What the pods of control and identity have in common. Takes a dict: context, component, port,
metricsPort, args, volumes, mounts. */}}
{{- define "meshgraft.meshDeployment" -}}
{{- $root := .context }}
{{- $mesh := $root.Values.mesh }}
{{- $own := index $mesh .component }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: meshgraft-{{ .component }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "meshgraft.labels" (dict "context" $root "component" .component) | nindent 4 }}
spec:
  replicas: {{ $own.replicas }}
  revisionHistoryLimit: {{ $root.Values.revisionHistoryLimit }}
  selector:
    matchLabels:
      {{- include "meshgraft.selector" .component | nindent 6 }}
  strategy:
    type: RollingUpdate
    {{- with $root.Values.deploymentStrategy }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  template:
    metadata:
      labels:
        {{- include "meshgraft.labels" (dict "context" $root "component" .component "extra" $root.Values.podLabels) | nindent 8 }}
      annotations:
        {{- $annotations := dict
          "linkerd.io/inject" "disabled"
          "cluster-autoscaler.kubernetes.io/safe-to-evict" "true"
          "prometheus.io/scrape" "true"
          "prometheus.io/port" (.metricsPort | toString)
          "prometheus.io/path" "/metrics" }}
        {{- toYaml (mergeOverwrite $annotations $root.Values.podAnnotations) | nindent 8 }}
    spec:
      serviceAccountName: meshgraft-{{ .component }}
      automountServiceAccountToken: true
      enableServiceLinks: false
      terminationGracePeriodSeconds: 30
      {{- with $root.Values.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      {{- with $root.Values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $root.Values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if $root.Values.enablePodAntiAffinity }}
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - topologyKey: kubernetes.io/hostname
              labelSelector:
                matchLabels:
                  {{- include "meshgraft.selector" .component | nindent 18 }}
          preferredDuringSchedulingIgnoredDuringExecution:
            - weight: 100
              podAffinityTerm:
                topologyKey: topology.kubernetes.io/zone
                labelSelector:
                  matchLabels:
                    {{- include "meshgraft.selector" .component | nindent 20 }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 2103
        runAsGroup: 2103
        fsGroup: 2103
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: {{ .component }}
          image: {{ include "meshgraft.image" $root | quote }}
          imagePullPolicy: {{ $root.Values.meshgraft.image.pullPolicy | default $root.Values.imagePullPolicy }}
          args:
            - {{ .component }}
            - --listen={{ include "meshgraft.anyAddress" $root }}:{{ .port }}
            - --metrics-listen={{ include "meshgraft.anyAddress" $root }}:{{ .metricsPort }}
            - {{ printf "--trust-domain=%s" ($root.Values.identityTrustDomain | default $root.Values.clusterDomain) | quote }}
            - {{ printf "--relay=%s/linkerd-cni" $mesh.cniNamespace | quote }}
            {{- range .args }}
            - {{ . | quote }}
            {{- end }}
            - --shutdown-delay={{ $root.Values.proxyInjector.shutdownDelaySeconds }}
            - --log-format={{ $root.Values.controllerLogFormat }}
            - --log-level={{ $root.Values.controllerLogLevel }}
          env:
            - name: POD_NAME
              valueFrom:
                fieldRef:
                  fieldPath: metadata.name
            - name: POD_NAMESPACE
              valueFrom:
                fieldRef:
                  fieldPath: metadata.namespace
          ports:
            - name: grpc
              containerPort: {{ .port }}
            - name: admin-http
              containerPort: {{ .metricsPort }}
          startupProbe:
            httpGet:
              path: /livez
              port: admin-http
            periodSeconds: 1
            timeoutSeconds: 2
            failureThreshold: 120
          livenessProbe:
            httpGet:
              path: /livez
              port: admin-http
            timeoutSeconds: 2
          readinessProbe:
            httpGet:
              path: /readyz
              port: admin-http
            periodSeconds: 2
            timeoutSeconds: 2
            failureThreshold: 3
          {{- with include "meshgraft.resources" $own.resources | fromYaml }}
          resources:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          terminationMessagePolicy: FallbackToLogsOnError
          volumeMounts:
            - name: tmp
              mountPath: /tmp
            {{- with .mounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir:
            medium: Memory
            sizeLimit: 16Mi
        {{- with .volumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end }}

{{/* Service, ServiceAccount, PodDisruptionBudget, NetworkPolicy and PodMonitor of one part. Takes a
dict: context, component, port. */}}
{{- define "meshgraft.meshBeside" -}}
{{- $root := .context }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: meshgraft-{{ .component }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "meshgraft.labels" (dict "context" $root "component" .component) | nindent 4 }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
---
apiVersion: v1
kind: Service
metadata:
  name: meshgraft-{{ .component }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "meshgraft.labels" (dict "context" $root "component" .component) | nindent 4 }}
spec:
  selector:
    {{- include "meshgraft.selector" .component | nindent 4 }}
  ports:
    - name: grpc
      port: {{ .port }}
      targetPort: grpc
{{- if $root.Values.enablePodDisruptionBudget }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: meshgraft-{{ .component }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "meshgraft.labels" (dict "context" $root "component" .component) | nindent 4 }}
spec:
  maxUnavailable: {{ $root.Values.controller.podDisruptionBudget.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "meshgraft.selector" .component | nindent 6 }}
{{- end }}
{{- if $root.Values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: meshgraft-{{ .component }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "meshgraft.labels" (dict "context" $root "component" .component) | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "meshgraft.selector" .component | nindent 6 }}
  policyTypes:
    - Ingress
    {{- if $root.Values.networkPolicy.egress }}
    - Egress
    {{- end }}
  ingress:
    # Relays call with their nodes' addresses, which are not known here; each call has a token.
    - ports:
        - port: grpc
    - ports:
        - port: admin-http
      {{- with $root.Values.networkPolicy.metricsFrom }}
      from:
        {{- toYaml . | nindent 8 }}
      {{- end }}
  {{- with $root.Values.networkPolicy.egress }}
  egress:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- if $root.Values.podMonitor.enabled }}
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: meshgraft-{{ .component }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "meshgraft.labels" (dict "context" $root "component" .component "extra" $root.Values.podMonitor.labels) | nindent 4 }}
spec:
  selector:
    matchLabels:
      {{- include "meshgraft.selector" .component | nindent 6 }}
  podMetricsEndpoints:
    - port: admin-http
      path: /metrics
      interval: {{ $root.Values.podMonitor.scrapeInterval }}
{{- end }}
{{- end }}
