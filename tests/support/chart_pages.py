"""What the charts say of their values, made from the comments in values.yaml: run this file to write it; a house test compares.

Two places: `description` in values.schema.json, and the table in README.md. What the worker chart's `pool` takes is the spec of the CRD.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CHARTS = Path(__file__).resolve().parents[2] / "charts"
OPERATOR = CHARTS / "celeriac-operator"
WORKER = CHARTS / "celeriac-worker"
CRD_FILE = OPERATOR / "files" / "crds" / "workerpools.celeriac.dev.yaml"

BEGIN = "<!-- This table is made of values.yaml by `make docs`. -->\n\n"
END = "\n<!-- End of the table. -->\n"

#: Of Kubernetes' structural schemas, what JSON Schema does not know; `default` is the API server's to fill in.
_KUBERNETES_ONLY = ("x-kubernetes-", "default")

Path_ = tuple[str, ...]
Schema = dict[str, Any]


def comments(text: str) -> dict[Path_, str]:
    """Of each name in a values.yaml the comment right above it, as one line; names without one are left out."""
    found: dict[Path_, str] = {}
    stack: list[tuple[int, str]] = []
    above: list[str] = []
    for line in text.splitlines():
        if comment := re.match(r"( *)# ?(.*)", line):
            above.append(comment[2].strip())
        elif name := re.match(r"( *)([A-Za-z]+):", line):
            indent = len(name[1])
            while stack and stack[-1][0] >= indent:
                stack.pop()
            stack.append((indent, name[2]))
            if above:
                found[tuple(one for _, one in stack)] = " ".join(above)
            above = []
        else:
            above = []
    return found


def leaves(values: Mapping[str, Any], said: Mapping[Path_, str], prefix: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """(path, default) of each value that a user sets: a map that has a comment of its own is one value."""
    for name, value in values.items():
        path = (*prefix, name)
        if isinstance(value, Mapping) and value and path not in said:
            yield from leaves(value, said, path)
        else:
            yield path, value


def schema(chart: Path) -> str:
    """The text that the chart's values.schema.json has to have: the one that is there, each value described as in values.yaml."""
    made: Schema = json.loads((chart / "values.schema.json").read_text())
    if "pool" in made["properties"]:
        own = ("enabled", "name", "annotations")
        pool = made["properties"]["pool"]
        pool["properties"] = {name: pool["properties"][name] for name in own} | pool_fields()
    for path, words in comments((chart / "values.yaml").read_text()).items():
        node = made
        for name in path:
            node = node["properties"][name]
        node["description"] = words
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def pool_fields() -> Schema:
    """The fields of a WorkerPool's spec as values: any of them may be left out at the top, and no other is taken at any depth."""
    crd = yaml.safe_load(CRD_FILE.read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    fields: Schema = _closed(spec)["properties"]
    for name in ("targetRef", "broker"):  # merged with what the chart knows
        del fields[name]["required"]
    return fields


def _closed(node: Any) -> Any:
    """A structural schema as JSON Schema that takes only the fields which the API server would keep."""
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    made = {}
    for key, value in node.items():
        if key == "properties":
            made[key] = {name: _closed(below) for name, below in value.items()}
        elif not key.startswith(_KUBERNETES_ONLY):
            made[key] = _closed(value)
    if "properties" in made:
        made["additionalProperties"] = False
    return made


def readme(chart: Path) -> str:
    """The text that the chart's README.md has to have: what stands outside of the table stays."""
    page = (chart / "README.md").read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table(chart) + END + after


def table(chart: Path) -> str:
    """Rows of name, default and meaning, in the order of values.yaml, and after its pool's the fields that it leaves unset."""
    text = (chart / "values.yaml").read_text()
    said = comments(text)
    values = yaml.safe_load(text)
    root = json.loads(schema(chart))
    rows = [
        (".".join(path), _shown(default), said[path] + _choices(_node(root, path)))
        for path, default in leaves(values, said)
    ]
    if "pool" in values:
        last = max(i for i, (name, _, _) in enumerate(rows) if name.startswith("pool."))
        rows[last + 1 : last + 1] = [
            (f"pool.{name}", "unset", field["description"] + _choices(field))
            for name, field in root["properties"]["pool"]["properties"].items()
            if name not in values["pool"]
        ]
    lines = [f"| `{name}` | {default} | {words.replace('|', chr(92) + '|')} |\n" for name, default, words in rows]
    return "| value | default | what it is |\n|---|---|---|\n" + "".join(lines)


def _node(root: Schema, path: Path_) -> Schema:
    for name in path:
        root = root["properties"][name]
    return root


def _choices(node: Schema) -> str:
    """The closed set that the schema allows, as a sentence."""
    if "enum" not in node:
        return ""
    return " One of " + ", ".join(f"`{choice}`" for choice in node["enum"]) + "."


def _shown(default: Any) -> str:
    return "unset" if default is None else f"`{json.dumps(default, ensure_ascii=False)}`"


if __name__ == "__main__":
    for chart in (OPERATOR, WORKER):
        (chart / "values.schema.json").write_text(schema(chart))
        (chart / "README.md").write_text(readme(chart))
