#!/usr/bin/env bash
# Show that no test depends on how quick or busy the machine is: run them alone, with every core kept busy by
# something else, and with a fake engine whose time goes twice as fast. What follows is passed on to `make`:
#   scripts/thrice.sh check        # the fast tests, three times
#   scripts/thrice.sh test         # all of them: hours on two cores
set -euo pipefail
cd "$(dirname "$0")/.."

busy=()
rest() {
    for pid in "${busy[@]}"; do kill "$pid" 2>/dev/null || true; done
    busy=()
}
trap rest EXIT

echo "1 of 3: alone"
make "${@:-check}"

echo "2 of 3: every core is kept busy"
for _ in $(seq "$(nproc)"); do
    python3 -c 'while True: pass' &
    busy+=($!)
done
make "${@:-check}"
rest

echo "3 of 3: the fake engine's time goes twice as fast"
FAKE_ENGINE_PACE=0.5 make "${@:-check}"
