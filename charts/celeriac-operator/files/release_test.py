"""What `helm test` runs with the operator's account: it answers through its Service, and has the rights that it needs.

arguments   host and port of the Service, then each namespace that is served; none when all are.

Pools that are wrong are shown and are no failure: they are their owners', and no reason to roll the operator back.
"""

import json
import subprocess
import sys
import time
import urllib.request

WAIT_S = 60.0
#: What the doctor says of a namespace that it may not get, as the operator may not. That it is there Helm knows: it has put a Role there.
NO_POOL = "it has no WorkerPool, and whether it exists could not be told"


def answer(url: str) -> str:
    """What the URL answers with 200. Raises OSError when it does not within WAIT_S."""
    end = time.monotonic() + WAIT_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return response.read().decode().strip()
        except OSError as error:
            if time.monotonic() > end:
                raise OSError(f"{url} does not answer with 200 within {WAIT_S:.0f} s: {error}") from error
            time.sleep(1)


def findings(namespaces: list[str]) -> list[dict[str, str]]:
    """What the doctor finds in these namespaces. Raises OSError when it finds no words."""
    chosen = [word for name in namespaces for word in ("--namespace", name)]
    done = subprocess.run(
        ["celeriac-operator", "doctor", "--json", "--no-broker", *chosen],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    try:
        found: list[dict[str, str]] = json.loads(done.stdout)
    except ValueError as error:
        raise OSError(f"celeriac-operator doctor ended with code {done.returncode} and told nothing") from error
    return found


def main(host: str, port: str, *namespaces: str) -> int:
    """The exit code: 0 when all is well."""
    url = f"http://{host}:{port}/readyz"
    try:
        print(f"{url}: {answer(url)}")
        found = findings(list(namespaces))
    except OSError as error:
        print(error)
        return 1
    failed = 0
    for finding in found:
        harmless = finding["subject"].startswith("WorkerPool ") or finding["says"].startswith(NO_POOL)
        counts = finding["level"] in {"error", "unknown"} and not harmless
        failed += counts
        print(f"{'FAILED ' if counts else ''}{finding['level']}: {finding['subject']}: {finding['says']}")
        if finding["level"] != "ok" and finding["fix"]:
            print(f"  to do: {finding['fix']}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
