#!/bin/sh
# DEPO, ANIRA-E, as shipped: the backbone of the online model, a new decider that starts out at K.
set -e
cd "$(dirname "$0")/../.."
exec .build/release/anira train --task depo --variant early --preset small --from checkpoints/depo-online \
    --steps 2500 --learning-rate 1e-3 --cooldown 1000 --learn-until 0.96 --learn-at-most 800 --lambda-ramp 600 \
    --out "${1:-runs/out/depo-early}"
