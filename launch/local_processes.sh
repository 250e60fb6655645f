#!/usr/bin/env bash
# Runs a command in several processes of this machine that form one computation.
#
#   bash launch/local_processes.sh PROCESSES COMMAND...
#   bash launch/local_processes.sh 2 owl2 train --config=FILE --workdir=FOLDER
#
# With GPUs each process takes its share of CUDA_VISIBLE_DEVICES, or of all. On a
# CPU each process has as many devices as XLA_FLAGS says. When one process fails,
# all stop, and start again together from the newest checkpoint.
set -euo pipefail
# shellcheck source=launch/restarts.sh
source "$(dirname "${BASH_SOURCE[0]}")/restarts.sh"

if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: bash launch/local_processes.sh PROCESSES COMMAND..." >&2
  exit 2
fi
processes=$1
shift

# Devices of process $1, comma-separated; nothing on a machine without GPUs.
gpus_of() {
  local visible=${CUDA_VISIBLE_DEVICES:-}
  if [ -z "$visible" ] && command -v nvidia-smi >/dev/null; then
    visible=$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd,)
  fi
  [ -z "$visible" ] && return
  local all share
  IFS=, read -ra all <<<"$visible"
  if [ $((${#all[@]} % processes)) -ne 0 ]; then
    echo "${#all[@]} GPUs do not divide into $processes processes" >&2
    return 2
  fi
  share=$((${#all[@]} / processes))
  (IFS=, && echo "${all[*]:$1*share:share}")
}

children=()
stop_all() {
  if [ ${#children[@]} -gt 0 ]; then
    kill -TERM "${children[@]}" 2>/dev/null || true
    wait "${children[@]}" 2>/dev/null || true
  fi
}
trap 'stop_all; exit 130' INT TERM

all_together() {
  local process gpus code=0
  local port=${OWL2_PORT:-$((20000 + RANDOM % 20000))}
  children=()
  for ((process = 0; process < processes; process++)); do
    gpus=$(gpus_of "$process") || return 2
    (
      if [ -n "$gpus" ]; then export CUDA_VISIBLE_DEVICES=$gpus; fi
      export OWL2_COORDINATOR="127.0.0.1:$port" OWL2_PROCESSES=$processes OWL2_PROCESS=$process
      exec "$@"
    ) &
    children+=($!)
  done
  for ((process = 0; process < processes; process++)); do
    wait -n "${children[@]}" || {
      code=$?
      break
    }
  done
  if [ "$code" -ne 0 ]; then stop_all; fi
  return "$code"
}

restart all_together "$@"
