#!/bin/sh
# What the suite is, in half a minute: four kinds of processes on a shipped model, real problems over ZeroMQ, the
# depth every token took, a look into the store with stock tools, a clean stop.
# usage: demo.sh ANIRA
set -eu
cd "$(dirname "$0")/.."
anira=$1
endpoint=tcp://127.0.0.1:$((20000 + $$ % 10000))
folder=$(mktemp -d)
trap 'kill -TERM "$up" 2>/dev/null || true; wait "$up" 2>/dev/null || true; rm -rf "$folder"' EXIT

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "Starting Router, DeciderService, two RecurrentCoreServices and CodaService on checkpoints/mano-online"
mkfifo "$folder/ready"
"$anira" up --model checkpoints/mano-online --data "$folder/data" --endpoint "$endpoint" --cores 2 >"$folder/ready" &
up=$!
head -n 1 "$folder/ready"
ps -o pid,args --ppid "$up" | cut -c 1-100

say "MANO: prefix arithmetic modulo 7. The row below the words is the depth each token took."
while IFS='|' read -r problem value; do
    "$anira" generate --endpoint "$endpoint" --max-new-tokens 1 --depths "<bos> $problem <ans>"
    echo "expected: $value"
    echo
done <<'PROBLEMS'
+ 3 6|2
+ 3 * 2 4|4
- - 0 5 6|3
* + 3 * 2 4 4|2
* * 4 2 + 5 0|5
PROBLEMS

say "One of them at fixed depth 1: less thinking, and what it costs (expected: 2)"
"$anira" generate --endpoint "$endpoint" --max-new-tokens 1 --depth 1 --depths '<bos> * + 3 * 2 4 4 <ans>'

say "Where the compute goes: 150 unseen problems through the services, by number of operators"
"$anira" eval --endpoint "$endpoint" --task mano --modulus 7 --max-size 3 --rows 50 --no-sweep

say "Another task, DEPO (the k-th successor on a cycle), in one process, by number of hops"
"$anira" eval --model checkpoints/depo-online --task depo --rows 50 --no-sweep

say "What the workers did"
sleep 1 # figures come with heartbeats
"$anira" status --endpoint "$endpoint"

say "The store: one record a token, seen with LMDB's own tools while it is live"
for store in "$folder"/data/kv/*/*; do
    echo "${store#"$folder/data/"}: $(mdb_stat -s kv "$store" | grep Entries)"
done
"$anira" kv sessions --data "$folder/data" --stage core

say "Stopping"
kill -TERM "$up"
wait "$up"
echo "stopped cleanly"
pgrep -P "$up" && exit 1
exit 0
