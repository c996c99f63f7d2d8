"""A client process of either library: reads one JSON request a line, does it with `shop`'s app, answers one JSON line.

{"send": task, "args": [], "kwargs": {}, "options": {}} -> {"id"}
{"get": id, "timeout_s": s} -> {"value"} or {"raised": {"module", "name", "args", "is_shops"}}
{"look": id} -> {"state", "result", "traceback", "info"}
{"ping": [nodes] or null, "timeout_s": s} -> {"value"}
{"inspect": name, "args": [], "kwargs": {}, "timeout_s": s} -> {"value"}
{"control": command, "arguments": {}, "options": {}} -> {"value"}
{"panel": true} -> {"value": {name: kind}} of the commands that Celery's workers know
"""

import json
import sys

import shop


def send(request):
    task = getattr(shop, request["send"])
    result = task.apply_async(tuple(request.get("args", ())), request.get("kwargs", {}), **request.get("options", {}))
    return {"id": result.id}


def get(request):
    try:
        return {"value": shop.app.AsyncResult(request["get"]).get(timeout=request["timeout_s"])}
    except Exception as error:
        return {"raised": described(error)}


def look(request):
    result = shop.app.AsyncResult(request["look"])
    state, value = result.state, result.result  # in this order: what is read later may only be newer
    return {
        "state": state,
        "result": described(value) if isinstance(value, Exception) else value,
        "traceback": result.traceback,
        "ready": result.ready(),
        "failed": result.failed(),
    }


def ping(request):
    inspect = shop.app.control.inspect(destination=request["ping"], timeout=request["timeout_s"])
    return {"value": inspect.ping()}


def inspect(request):
    asked = shop.app.control.inspect(timeout=request["timeout_s"])
    return {"value": getattr(asked, request["inspect"])(*request["args"], **request["kwargs"])}


def control(request):
    answers = shop.app.control.broadcast(
        request["control"], arguments=request["arguments"], reply=True, **request["options"]
    )
    return {"value": answers}


def panel(_):
    from celery.worker.control import Panel

    return {
        "value": {name: Panel.meta[name].type for name in Panel.data if name in Panel.meta}
        | {name: None for name in Panel.data if name not in Panel.meta}
    }


def described(error):
    return {
        "module": type(error).__module__,
        "name": type(error).__name__,
        "args": list(error.args),
        "is_shops": isinstance(error, shop.OutOfStock),
    }


OPERATIONS = {
    "send": send, "get": get, "look": look, "ping": ping, "inspect": inspect, "control": control, "panel": panel,
}  # fmt: skip

print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    operation = next(OPERATIONS[name] for name in OPERATIONS if name in asked)
    print(json.dumps(operation(asked), default=repr), flush=True)
