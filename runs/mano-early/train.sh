#!/bin/sh
# MANO, ANIRA-E, as shipped: the backbone of the online model, a new decider that starts out at K.
set -e
cd "$(dirname "$0")/../.."
exec .build/release/anira train --task mano --variant early --preset small --from checkpoints/mano-online \
    --steps 6000 --learning-rate 1e-3 --cooldown 1900 --learn-until 0.975 --learn-at-most 3000 --lambda-ramp 1500 \
    --out "${1:-runs/out/mano-early}"
