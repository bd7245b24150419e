#!/bin/sh
# BREVO, ANIRA-O, as shipped: graphs of up to 8 nodes.
set -e
cd "$(dirname "$0")/../.."
exec .build/release/anira train --task brevo --variant online --preset small --out "${1:-runs/out/brevo-online}"
