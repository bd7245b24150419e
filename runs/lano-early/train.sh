#!/bin/sh
# LANO, ANIRA-E, as shipped: next letters of the language cfg3b, from scratch.
set -e
cd "$(dirname "$0")/../.."
exec .build/release/anira train --task lano --variant early --preset small --out "${1:-runs/out/lano-early}"
