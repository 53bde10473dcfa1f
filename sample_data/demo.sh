#!/bin/sh
# Run both parties of job.yaml on this machine, each in its own process, and show both reports.
set -eu
here=$(dirname "$0")
out=$here/../demo-out
psicli=${PSICLI:-psicli}

mkdir -p "$out/airline" "$out/registry"
# The demonstration uses any free port; a real job has a fixed one.
PSICLI_DEMO_PORT=$("${PYTHON:-python3}" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PSICLI_DEMO_PORT
# Keep the demonstration out of this user's ledger.
export PSICLI_STATE_DIR="$out/state"

"$psicli" run --config "$here/job.yaml" --party registry >"$out/registry/report.txt" &
registry=$!
airline_code=0 registry_code=0
"$psicli" run --config "$here/job.yaml" --party airline >"$out/airline/report.txt" || airline_code=$?
wait "$registry" || registry_code=$?

printf '\n'
cat "$out/airline/report.txt"
printf '\n'
cat "$out/registry/report.txt"
printf '\nexit codes: airline %s, registry %s; outputs in demo-out/\n' "$airline_code" "$registry_code"
[ "$airline_code" -eq 0 ] && [ "$registry_code" -eq 0 ]
