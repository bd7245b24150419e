#!/bin/sh
# DEPO, ANIRA-E, as shipped: the backbone of the online model; a strong λ first teaches the prelude to bring the hops to
# the answer, then a new decider and a weaker λ let the depth follow them.
set -e
cd "$(dirname "$0")/../.."
out="${1:-runs/out/depo-early}"
anira=.build/release/anira
$anira train --task depo --variant early --preset small --from checkpoints/depo-online \
    --steps 2000 --learning-rate 1e-3 --cooldown 500 --lambda 3 --learn-at-most 1 --lambda-ramp 800 \
    --evaluate-every 250 --out "$out-prelude"
$anira train --task depo --variant early --preset small --from "$out-prelude" \
    --steps 3000 --learning-rate 1e-3 --cooldown 1000 --lambda 1 --learn-until 0.97 --learn-at-most 600 \
    --lambda-ramp 600 --evaluate-every 250 --out "$out"
exec $anira train --resume --out "$out" --steps 4500 --cooldown 1000 --lambda 0.6
