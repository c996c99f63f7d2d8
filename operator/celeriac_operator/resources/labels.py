"""Names that the operator and its users meet in the cluster: the API group, the kind, and whose fields are whose."""

GROUP = "celeriac.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "WorkerPool"
PLURAL = "workerpools"

#: The name under which the operator's writes appear in `metadata.managedFields`.
FIELD_MANAGER = "celeriac-operator"

#: On pods, a copy for people of who is to go first; from Kubernetes 1.22 on ReplicaSets heed it too: lower goes first.
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"

#: The manager to which docs/from-a-deployment.md hands `replicas` over, before a pool has it: it applies nothing again.
HANDOVER = "handover"
