#!/bin/sh
# Usage: install.sh ENVIRONMENT PINS [PYTHON]
# A virtual environment that holds the pinned packages. Says what it does, shows how far it is, keeps pip's log.
set -eu
environment=$1 pins=$2 python=${3:-}

usable() { "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if ! usable "$environment/bin/python"; then
    if [ -z "$python" ]; then
        # A name on PATH may be a launcher for a version that is not there: only a run tells.
        for python in python3.14 python3.13 python3.12 python3.11 python3 python ""; do
            if [ -n "$python" ] && usable "$python"; then break; fi
        done
    fi
    if [ -z "$python" ] || ! usable "$python"; then
        echo "No usable Python 3.11 or newer${python:+ (tried $python)}: install one with its venv module" >&2
        echo "(on Debian and Ubuntu: the package python3-venv), or name it: make PYTHON=/path/to/python3.12" >&2
        exit 1
    fi
    echo "$environment: making it with $("$python" -c 'import platform, sys; print(f"Python {platform.python_version()}, {sys.executable}")')"
    "$python" -m venv --clear "$environment"
fi

log=$environment/install.log
total=$(grep -c '^[A-Za-z]' "$pins")
echo "$environment: installing $total pinned packages, once (about a minute)"

# The pins are complete, so nothing has to be resolved; should a Python of another version need one more, pip check tells.
{
    "$environment/bin/python" -m pip install --disable-pip-version-check --no-input --no-deps --requirement "$pins" &&
        { "$environment/bin/python" -m pip check ||
            "$environment/bin/python" -m pip install --disable-pip-version-check --no-input --requirement "$pins"; }
} >"$log" 2>&1 &
pip=$!
trap 'kill $pip 2>/dev/null || true; exit 130' INT TERM

# On a terminal one line that moves; elsewhere nothing more is said.
while kill -0 $pip 2>/dev/null; do
    if [ -t 1 ]; then
        if grep -q '^Installing collected' "$log"; then step=unpacking
        else step=$(grep -c '^Collecting' "$log" || true)/$total; fi
        printf '\r%s: %-12s' "$environment" "$step"
    fi
    sleep 1
done
if [ -t 1 ]; then printf '\r%*s\r' 60 ''; fi

if ! wait $pip; then
    tail -n 20 "$log" >&2
    echo "$environment: pip could not install $pins; its whole log is $log" >&2
    exit 1
fi
