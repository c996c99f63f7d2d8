{{/* The chart's name, or nameOverride: at most 63 characters, as a label must be. */}}
{{- define "celeriac-worker.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of our objects: the release's name, with the chart's unless it holds it already. */}}
{{- define "celeriac-worker.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "celeriac-worker.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What never changes for the life of a release: selectors are immutable. */}}
{{- define "celeriac-worker.selectorLabels" -}}
app.kubernetes.io/name: {{ include "celeriac-worker.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The labels that Kubernetes recommends, then the user's. */}}
{{- define "celeriac-worker.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "celeriac-worker.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: worker
app.kubernetes.io/part-of: celeriac
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of the pods: without the chart's version, whose change alone must not replace a pod. */}}
{{- define "celeriac-worker.podLabels" -}}
{{ include "celeriac-worker.selectorLabels" . }}
app.kubernetes.io/component: worker
app.kubernetes.io/part-of: celeriac
{{- with merge (dict) .Values.podLabels .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "celeriac-worker.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "celeriac-worker.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* registry/repository@digest, or :tag. */}}
{{- define "celeriac-worker.image" -}}
{{- with .Values.image -}}
{{- $_ := required "image.repository is empty: build your app on top of the Dockerfile's target worker, and name that image" .repository -}}
{{- $name := ternary (printf "%s/%s" .registry .repository) .repository (ne .registry "") -}}
{{- if .digest -}}
{{- printf "%s@%s" $name .digest -}}
{{- else -}}
{{- printf "%s:%s" $name (required "image.tag is empty: name your image's tag, or its digest" .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "celeriac-worker.kubeVersion" -}}
{{- default .Capabilities.KubeVersion.Version .Values.kubeVersion -}}
{{- end -}}

{{/* The WorkerPool's name: also the pods' label, so that metrics carry it. */}}
{{- define "celeriac-worker.pool" -}}
{{- default (include "celeriac-worker.fullname" .) .Values.pool.name -}}
{{- end -}}

{{- define "celeriac-worker.brokerSecret" -}}
{{- required "broker.existingSecret is empty: put the broker's URL in a Secret and name it (kubectl create secret generic redis --from-literal=url=redis://…)" .Values.broker.existingSecret -}}
{{- end -}}

{{/* The WorkerPool's spec: what this chart knows, and over it the user's fields. */}}
{{- define "celeriac-worker.poolSpec" -}}
{{- $queues := list -}}
{{- range .Values.worker.queues }}{{ $queues = append $queues (dict "name" .) }}{{ end -}}
{{- $ref := dict "name" (include "celeriac-worker.brokerSecret" .) "key" .Values.broker.existingSecretKey -}}
{{- $target := dict "apiVersion" "apps/v1" "kind" "Deployment" "name" (include "celeriac-worker.fullname" .) -}}
{{- $spec := dict "targetRef" $target "broker" (dict "urlFrom" (dict "secretKeyRef" $ref)) "queues" $queues -}}
{{- with .Values.worker.concurrency }}{{ $_ := set $spec "concurrency" (int .) }}{{ end -}}
{{- mergeOverwrite $spec (omit (deepCopy .Values.pool) "enabled" "name" "annotations") | toYaml -}}
{{- end -}}

{{/* Names of the Secrets that the operator reads for the pool, as a JSON list: the URLs' and the certificates'. Without a pool
     of this chart's, the broker's. */}}
{{- define "celeriac-worker.brokerSecrets" -}}
{{- $names := list -}}
{{- if .Values.pool.enabled -}}
{{- $broker := (include "celeriac-worker.poolSpec" . | fromYaml).broker -}}
{{- range $source := list "urlFrom" "managementUrlFrom" "caFrom" "certFrom" "keyFrom" -}}
{{- $part := ternary $broker (default (dict) $broker.tls) (has $source (list "urlFrom" "managementUrlFrom")) -}}
{{- with dig $source "secretKeyRef" "name" "" $part }}{{ $names = append $names . }}{{ end -}}
{{- end -}}
{{- else -}}
{{- $names = list (include "celeriac-worker.brokerSecret" .) -}}
{{- end -}}
{{- $names | uniq | sortAlpha | toJson -}}
{{- end -}}
