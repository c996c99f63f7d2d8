"""A client process of either library for workflows: one JSON request a line, one JSON answer a line.

{"run": expression, "timeout_s": s} -> {"id", "value"} or {"id", "raised": {"name", "text"}}
{"save": expression} -> {"id"}, of a group that was sent and saved
{"restore": id, "timeout_s": s} -> {"value"}

An expression makes a signature out of the tasks of workflows.py, chain, group, chord and signature.
"""

import json
import os
import sys

import workflows

if os.environ["LIBRARY"] == "celery":
    from celery import signature
    from celery.result import GroupResult
else:
    from celeriac import signature
    from celeriac.result import GroupResult


def made(expression):
    return eval(expression, {**vars(workflows), "signature": signature})


def run(request):
    result = made(request["run"]).apply_async()
    try:
        return {"id": result.id, "value": result.get(timeout=request["timeout_s"])}
    except Exception as error:
        return {"id": result.id, "raised": {"name": type(error).__name__, "text": str(error)}}


def save(request):
    result = made(request["save"]).apply_async()
    result.save()
    return {"id": result.id}


def restore(request):
    return {"value": GroupResult.restore(request["restore"], app=workflows.app).get(timeout=request["timeout_s"])}


OPERATIONS = {"run": run, "save": save, "restore": restore}

print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    operation = next(OPERATIONS[name] for name in OPERATIONS if name in asked)
    print(json.dumps(operation(asked)), flush=True)
