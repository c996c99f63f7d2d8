#!/bin/sh
# Usage: renew.sh PYTHON PINS
# Pins anew what pyproject.toml asks for with its dev extra, from an empty environment, so that nothing stale is kept.
set -eu
python=$1 pins=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

echo "$pins: resolving in an empty environment"
"$python" -m venv "$scratch/env"
# hatchling and editables stand in no extra: they build the editable install without a network.
"$scratch/env/bin/python" -m pip install --quiet --disable-pip-version-check hatchling editables
"$scratch/env/bin/python" -m pip install --quiet --disable-pip-version-check '.[dev]'
{
    echo "# Every package that 'make install' puts into .venv, pinned. Renew with: make pins"
    "$scratch/env/bin/python" -m pip freeze --exclude celeriac | LC_ALL=C sort --ignore-case
} >"$scratch/pins"
cp "$scratch/pins" "$pins"
echo "$pins: $(grep -c '==' "$pins") packages"
