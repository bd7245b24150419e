#!/bin/sh
# LANO, ANIRA-E, as shipped: next letters of the language cfg3b; first all K iterations, from scratch, then a new decider
# without bias under λ (the first one's bias towards K has grown too strong by then to be undone).
set -e
cd "$(dirname "$0")/../.."
out="${1:-runs/out/lano-early}"
anira=.build/release/anira
$anira train --task lano --variant early --preset small --steps 1500 --cooldown 0 --out "$out-backbone"
exec $anira train --task lano --variant early --preset small --from "$out-backbone" \
    --steps 2000 --learning-rate 1e-3 --warmup 100 --depth-bias 0 --learn-at-most 0 --lambda-ramp 300 \
    --lambda 0.02 --gamma 1.25 --evaluate-every 250 --out "$out"
