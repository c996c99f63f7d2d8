"""Rights as a Role grants them, in words for people: the rule that is missing, and whose it is to be."""

import re
from collections.abc import Iterable

#: How an API server's refusal names who asked.
_USER = re.compile(r'User "([^"]+)"')

SECRETS_FIX = "name it in secrets.allowed of the operator's chart, or set operator.serviceAccount of the worker's"


def rule(group: str, resources: Iterable[str], verbs: Iterable[str], names: Iterable[str] = ()) -> str:
    """One rule of a Role, as an item of its `rules` in YAML: {apiGroups: [apps], resources: [deployments], verbs: [get]}."""
    by_name = f"resourceNames: [{', '.join(names)}], " if (names := tuple(names)) else ""
    return f'{{apiGroups: ["{group}"], resources: [{", ".join(resources)}], {by_name}verbs: [{", ".join(verbs)}]}}'


def reading(secret: str) -> str:
    """The rule by which one Secret may be read."""
    return rule("", ["secrets"], ["get"], [secret])


def refused_user(message: str) -> str:
    """Who asked, as a 403's message names it: system:serviceaccount:NAMESPACE:NAME, or a person; "" when it does not say."""
    found = _USER.search(message)
    return found[1] if found else ""


def unreadable(namespace: str, secret: str, refusal: str) -> str:
    """What is said of a Secret that the operator may not read, for what the API server answered: who may not, and what to do."""
    user = refused_user(refusal)
    who = f"{user} may not read the Secret" if user else f"the operator may not read the Secret ({refusal})"
    return f"{who} {namespace}/{secret}: {SECRETS_FIX}; or bind a Role of namespace {namespace} to that account, with the rule {reading(secret)}"
