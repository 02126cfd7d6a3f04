#!/usr/bin/env bash
# Two machines, one model. The same line on both, but for its first word: 0 on one machine, 1 on the other.
#
#   bash two-nodes.sh 0 ADDRESS doctor --distributed --data data/mine
#   bash two-nodes.sh 0 ADDRESS train gpt2 --data data/mine --out runs/mine --train.max_steps 2000
#
# ADDRESS is the name or IP address of machine 0, as both reach it. What follows is a command of groundup. Python,
# groundup and the folder of data must be the same on both; the run's folder appears on machine 0 alone. Killed or
# stopped, the same two lines go on from the last checkpoint. On one machine, to try: ADDRESS 127.0.0.1, two terminals.
#
# Environment, all optional:
#   PROCESSES  a machine: auto (one for each GPU, or for each core where there are none), or a number
#   NODES      2; more machines are numbers 2, 3, …
#   PORT       29500, on machine 0: free, and open to the others
#   RESTARTS   3: so often all begin again from the last checkpoint when a process dies
#   TORCHRUN   torchrun, as it stands in the environment where groundup is installed
set -euo pipefail

if (($# < 3)) || [[ ! $1 =~ ^[0-9]+$ ]]; then
  echo "usage: bash $0 NODE ADDRESS COMMAND…   (NODE 0 on one machine, 1 on the other; COMMAND of groundup)" >&2
  exit 2
fi
node=$1 address=$2
shift 2
restarts=${RESTARTS:-3}
if [[ $1 == train ]]; then
  set -- "$@" --auto-resume
else
  restarts=0 # a finding or a mistake is the same the second time
fi

exec "${TORCHRUN:-torchrun}" \
  --nnodes "${NODES:-2}" --node-rank "$node" --nproc-per-node "${PROCESSES:-auto}" --max-restarts "$restarts" \
  --master-addr "$address" --master-port "${PORT:-29500}" \
  -m groundup "$@"
