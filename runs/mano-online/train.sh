#!/bin/sh
# MANO, ANIRA-O, as shipped: from scratch in about half an hour on two cores.
set -e
cd "$(dirname "$0")/../.."
exec .build/release/anira train --task mano --variant online --preset small --out "${1:-runs/out/mano-online}"
