{{/* The chart's name, or nameOverride: at most 63 characters, as a label must be. */}}
{{- define "celeriac-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of our objects: the release's name, with the chart's unless it holds it already. */}}
{{- define "celeriac-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "celeriac-operator.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What never changes for the life of a release: selectors are immutable. */}}
{{- define "celeriac-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "celeriac-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The labels that Kubernetes recommends, then the user's. */}}
{{- define "celeriac-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "celeriac-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: celeriac
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of the pods: without the chart's version, whose change alone must not replace a pod. */}}
{{- define "celeriac-operator.podLabels" -}}
{{ include "celeriac-operator.selectorLabels" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: celeriac
{{- with merge (dict) .Values.podLabels .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What the pod of `helm test` is selected by, and neither the Deployment nor the Service. */}}
{{- define "celeriac-operator.testLabels" -}}
app.kubernetes.io/name: {{ printf "%s-test" (include "celeriac-operator.name" . | trunc 58 | trimSuffix "-") }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end -}}

{{- define "celeriac-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "celeriac-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* registry/repository@digest, or :tag. */}}
{{- define "celeriac-operator.image" -}}
{{- with .Values.image -}}
{{- $name := ternary (printf "%s/%s" .registry .repository) .repository (ne .registry "") -}}
{{- if .digest -}}
{{- printf "%s@%s" $name .digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "celeriac-operator.kubeVersion" -}}
{{- default .Capabilities.KubeVersion.Version .Values.kubeVersion -}}
{{- end -}}

{{/* The namespaces served, as JSON {"items": […]}: sorted and each once, so that two renders are the same. */}}
{{- define "celeriac-operator.namespaces" -}}
{{- dict "items" (default (list .Release.Namespace) .Values.watchNamespaces | uniq | sortAlpha) | toJson -}}
{{- end -}}

{{/* "true" when there is no CRD yet, or `found` is this release's own; "" when another release, or nobody's, holds it: one CRD
     serves them all, and Helm refuses an object that is not the release's own. */}}
{{- define "celeriac-operator.mayWriteCrd" -}}
{{- $owner := dig "metadata" "annotations" (dict) (default (dict) .found) -}}
{{- $same := and (eq (get $owner "meta.helm.sh/release-name") .release.Name) (eq (get $owner "meta.helm.sh/release-namespace") .release.Namespace) -}}
{{- if or (not .found) $same }}true{{ end -}}
{{- end -}}

{{/* Takes the CEL rules out of a schema, in place: API servers before 1.25 refuse the field. The operator checks the same rules. */}}
{{- define "celeriac-operator.dropValidations" -}}
{{- if kindIs "map" . -}}
{{- $_ := unset . "x-kubernetes-validations" -}}
{{- range $key, $value := . -}}{{- include "celeriac-operator.dropValidations" $value -}}{{- end -}}
{{- else if kindIs "slice" . -}}
{{- range . -}}{{- include "celeriac-operator.dropValidations" . -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Rights inside one watched namespace (or, in a ClusterRole, all). What each is for stands beside it. */}}
{{- define "celeriac-operator.rules" -}}
# Pools: the index that the loop reads. Never written but for their status.
- apiGroups: [celeriac.dev]
  resources: [workerpools]
  verbs: [get, list, watch]
- apiGroups: [celeriac.dev]
  resources: [workerpools/status]
  verbs: [patch]
# Targets: grace period, rollout and owner references are read; only /scale is written, so an image or a command never can be.
- apiGroups: [apps]
  resources: [deployments, replicasets, statefulsets]
  verbs: [get, list, watch]
- apiGroups: [apps]
  resources: [deployments/scale, replicasets/scale, statefulsets/scale]
  verbs: [update]
# Pods of the targets{{ if .Values.drain.annotatePods }}; patch is for the deletion cost{{ end }}{{ if .Values.drain.killPods }}; delete is for onDrainTimeout: Kill{{ end }}.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch{{ if .Values.drain.annotatePods }}, patch{{ end }}{{ if .Values.drain.killPods }}, delete{{ end }}]
{{- with .Values.secrets.allowed }}
# Broker URLs: these Secrets by name, nothing listed.
- apiGroups: [""]
  resources: [secrets]
  resourceNames: {{ toJson (. | uniq | sortAlpha) }}
  verbs: [get]
{{- end }}
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
# Another autoscaler of the same target: seen, named in the condition Conflict, and left alone.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [list]
# A budget that blocks every eviction of a target's pods: named in the condition EvictionBlocked.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list]
{{- end -}}
