"""What `helm test` runs in the workers' image: the app loads, its broker answers, and workers of the release answer a ping.

arguments   the app, a pattern of the workers' node names, and how many of them have to answer at the least.
"""

import json
import subprocess
import sys
import time

WAIT_S = 60.0


def main(app: str, pattern: str, least: str) -> int:
    """The exit code: 0 when all is well."""
    command = ["celeriac", "-A", app, "inspect", "ping", "--json", "--timeout", "3", "--pattern", pattern]
    end = time.monotonic() + WAIT_S
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # A map, be it an empty one, came from the broker; without one standard error says why.
        answers = json.loads(done.stdout) if done.stdout.strip() else None
        if answers is not None and len(answers) >= int(least):
            print(f"the broker answers; workers that do, of {least} or more: {', '.join(sorted(answers)) or 'none'}")
            return 0
        if time.monotonic() > end:
            print(
                done.stderr.strip() if answers is None else f"workers that answer, of {least} or more: {len(answers)}"
            )
            print(f"`{' '.join(command)}` ended with code {done.returncode}, for {WAIT_S:.0f} s")
            return 1
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
