"""Where a trigger of KEDA's has its broker: `source_of(trigger, ...)`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celeriac_operator.resources.keda_objects import Workers, beside, is_true, mapping, mappings, secret_key

#: The variables that Celeriac's and Celery's workers read, and what projects call theirs; in the order of weight.
_VARIABLES = ("CELERIAC_BROKER_URL", "CELERY_BROKER_URL", "BROKER_URL")
_KEDAS_SECRETS = {
    "password": "the password",
    "username": "the user",
    "address": "the address",
    "addresses": "the addresses",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A broker. where: the same for triggers on the same one. url, management: Secret keys. notes: to be said of it."""

    where: tuple[str, ...]
    url: Mapping[str, str] | None = None
    management: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()


def source_of(
    trigger: Mapping[str, Any], others: Sequence[Mapping[str, Any]], workers: Workers, namespace: object
) -> Source:
    """Where the trigger's broker is, as far as the trigger, its TriggerAuthentication and the workload tell."""
    data = mapping(trigger.get("metadata"))
    authentication = mapping(trigger.get("authenticationRef"))
    kind = str(authentication.get("kind") or "TriggerAuthentication")
    found = beside(others, kind, str(authentication.get("name") or ""), namespace)
    refs = {
        str(entry.get("parameter")): secret_key(entry)
        for entry in mappings(mapping(found.get("spec")).get("secretTargetRef"))
    }
    make = _rabbitmq if trigger.get("type") == "rabbitmq" else _redis
    source = make(str(trigger.get("type")), data, refs, workers)
    if source.url is None:
        variable = next((name for name in _VARIABLES if name in workers.secrets), "")
        if variable:
            # The placeholder's note goes: there is nothing left to be made.
            notes = (*source.notes[:-1], f"broker.urlFrom is where the workload has its ${variable}")
            return Source(where=source.where, url=workers.secrets[variable], management=source.management, notes=notes)
    return source


def _rabbitmq(_kind: str, data: Mapping[str, Any], refs: Mapping[str, Mapping[str, str]], workers: Workers) -> Source:
    variable, host = str(data.get("hostFromEnv") or ""), str(data.get("host") or "")
    where = ("rabbitmq", variable, host, str(refs.get("host")), str(data.get("vhostName") or ""))
    ref = refs.get("host") or workers.secrets.get(variable)
    protocol = str(data.get("protocol") or "auto")
    if protocol == "auto":
        protocol = (host or workers.values.get(variable, "")).split(":")[0]
    make = "broker: make a Secret with the amqp:// URL, user and password included, and name it in broker.urlFrom"
    if protocol in ("http", "https"):
        said = "protocol http is the management API: put its URL into a Secret, and name it in broker.managementUrlFrom"
        if ref is not None:
            said = (
                "protocol http is the management API: its URL became broker.managementUrlFrom; it ends without the virtual host"
                " that KEDA's may end with"
            )
        return Source(where=where, management=ref, notes=(said, make))
    if ref is not None:
        said = "protocol auto: should the Secret hold an http:// URL, it belongs in broker.managementUrlFrom, and an amqp:// one here"
        return Source(where=where, url=ref, notes=() if protocol in ("amqp", "amqps") else (said,))
    if variable:
        make = f"broker: make a Secret with the URL that ${variable} has in the workload, and name it in broker.urlFrom"
    return Source(where=where, notes=(make,))


def _redis(kind: str, data: Mapping[str, Any], refs: Mapping[str, Mapping[str, str]], workers: Workers) -> Source:
    def value(name: str) -> str:
        return str(data.get(name) or workers.values.get(str(data.get(f"{name}FromEnv") or ""), ""))

    addresses = [part.strip() for part in (value("address") or value("addresses")).split(",") if part.strip()]
    if not addresses:
        hosts, ports = value("host") or value("hosts"), value("port") or value("ports")
        addresses = [
            f"{host}:{port or 6379}"
            for host, port in zip(hosts.split(","), ports.split(",") + [""] * len(hosts), strict=False)
            if host
        ]
    where = (kind, *addresses, *(str(data.get(f"{name}FromEnv")) for name in ("address", "addresses", "host", "hosts")),
             str(data.get("databaseIndex") or 0))  # fmt: skip
    addresses = addresses or ["HOST:6379"]
    scheme = "rediss" if is_true(data.get("enableTLS")) or str(data.get("tls")) == "enable" else "redis"
    notes = []
    if kind == "redis-cluster":
        notes.append(
            "a Redis Cluster: name any of its nodes; keyPrefix must hold braces, as global_keyprefix of the workers does"
        )
        addresses = addresses[:1]
    if kind == "redis-sentinel":
        master = value("sentinelMaster") or "that Sentinel watches"
        notes.append(
            f"Sentinel at {', '.join(addresses)}: a pool cannot name the master {master}; give it the URL of a Service that leads to it"
        )
        addresses = ["MASTER:6379"]
    secret = ", ".join(
        f"{what} is in Secret {refs[name]['name']}, key {refs[name]['key']}"
        for name, what in _KEDAS_SECRETS.items()
        if name in refs
    )
    from_env = workers.secrets.get(str(data.get("passwordFromEnv") or ""))
    if from_env and not secret:
        secret = f"the password is in Secret {from_env['name']}, key {from_env['key']}"
    url = f"{scheme}://:PASSWORD@{addresses[0]}/{data.get('databaseIndex') or 0}"
    return Source(
        where=where,
        notes=(*notes, f"broker: make a Secret with the URL, {url}, and name it in broker.urlFrom{f' ({secret})' if secret else ''}"),
    )  # fmt: skip
