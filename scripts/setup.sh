#!/bin/sh
# Installs what is missing of the Debian packages given as arguments, and the tests' Python tools into .venv.
set -eu
cd "$(dirname "$0")/.."

missing=""
for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ]; then as_root=""; else as_root="sudo"; fi
    echo "installing:$missing"
    $as_root apt-get update -q
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -q -y --no-install-recommends $missing
fi

requirements=Tests/Acceptance/requirements.txt
if ! cmp -s "$requirements" .venv/installed.txt 2>/dev/null; then
    echo "making .venv for the tests"
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/python -m pip install -q --disable-pip-version-check -r "$requirements"
    cp "$requirements" .venv/installed.txt
fi
command -v swift >/dev/null || {
    echo "error: Swift 6.2 or later is needed on the PATH; see swift.org/install" >&2
    exit 1
}
