#!/bin/sh
# DEPO, ANIRA-O, as shipped: cycles of up to 8 nodes, up to 4 hops.
set -e
cd "$(dirname "$0")/../.."
exec .build/release/anira train --task depo --variant online --preset small --out "${1:-runs/out/depo-online}"
