#!/bin/sh
# Checks compose.yaml and common.yaml against the Compose specification without a container engine.
#   compose/validate.sh [python]        python: one that has the PyPI package compose-spec (default: python3)
# Exit code 0: valid. It also proves that the checker would have noticed a misspelt key.
set -eu
python=$(command -v "${1:-python3}" || echo "${1:-python3}")
case $python in /*) ;; *) python=$PWD/$python ;; esac
cd "$(dirname "$0")"

"$python" -c 'import compose_spec' 2>/dev/null || {
    echo "validate.sh: $python has no compose-spec; try: python3 -m venv V && V/bin/pip install compose-spec==0.2.1 && $0 V/bin/python" >&2
    exit 1
}

exec "$python" - <<'PYTHON'
import os
import sys

from compose_spec import PyCompose

EXPECTED = {"router", "decider", "core", "coda", "tools"}


def fail(message):
    sys.exit(f"{path}: {message}")


def parse(text):
    compose = PyCompose.from_yaml(text)
    compose.validate()
    whole = compose.to_dict()
    for name, service in whole["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if not source.startswith((".", "/")) and source not in whole.get("volumes", {}):
                raise ValueError(f"services.{name}.volumes: no volume '{source}' at the end of the file")
    return whole["services"]


for path in ("common.yaml", "compose.yaml"):
    with open(path) as file:
        text = file.read()
    try:
        services = parse(text)
    except ValueError as error:
        fail(f"invalid: {error}")
    # A checker that accepts misspelt keys proves nothing.
    for key in ("restart", "read_only", "tmpfs") if path == "common.yaml" else ("volumes", "command", "networks"):
        try:
            parse(text.replace(f"    {key}:", f"    {key[:-2]}{key[-1]}{key[-2]}:", 1))
        except ValueError:
            continue
        fail(f"the checker accepted a misspelt '{key}': its verdict means nothing")

if services.keys() != EXPECTED:
    fail(f"services are {sorted(services)}, expected {sorted(EXPECTED)}")

# Two containers on one store must share pids (LMDB's reader table), in one namespace.
owners = {}
for name, service in services.items():
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if not source.startswith((".", "/")):
            owners.setdefault(source, []).append(name)
for volume, names in owners.items():
    first, *others = names
    for other in others:
        if services[other].get("pid") != f"service:{first}":
            fail(f"{other} and {first} share the volume '{volume}' but not their pids; give {other} pid: service:{first}")

for name, service in services.items():
    build = service.get("build")
    if build and not os.path.exists(os.path.join(build["context"], build["dockerfile"])):
        fail(f"{name}: no {build['dockerfile']}")

print(f"compose.yaml, common.yaml: valid ({', '.join(sorted(services))})")
PYTHON
