"""The Kubernetes API: the warm index, the writes, the Lease. Nothing above it sends requests but kopf's watches.

Every verb the operator uses, for its Role (a ClusterRole where it serves all namespaces):

    celeriac.dev      workerpools                              get list watch
    celeriac.dev      workerpools/status                       patch         never the main resource
    apps              deployments, replicasets, statefulsets   get list watch
    apps              the same three with /scale               update        the number, and nothing else
    (core)            pods                                     get list watch
    (core)            pods                                     patch         deletion costs; not with --no-annotate-pods
    (core)            pods                                     delete        only for onDrainTimeout: Kill
    (core)            secrets, by name                         get           the broker's URL; never list or watch
    (core)            events                                   create patch
    coordination.k8s.io  leases in the operator's own namespace  create; get update by name    only with --ha
    autoscaling       horizontalpodautoscalers                 list          optional: conflicts are named
    keda.sh           scaledobjects                            list          optional: conflicts are named
    policy            poddisruptionbudgets                     list          optional: what blocks evictions is named

Discovery (`/api`, `/apis` and below) is open to every service account. Namespaces and CRDs are not read.
"""
