#!/usr/bin/env bash
# The paper's claims in miniature, from nothing to tables and plots.
#
#   bash launch/study.sh [SIZE ...]      (default: small large)
#
# Leaves runs/scenes/SIZE/claims/{table.*,claims.*,plots} and
# runs/scenes/SIZE/further. Interrupted, the same command goes on where it
# was, inside a run from its last checkpoint.
# JOBS is the number of runs at a time (default: 2, for two cores).
# PYTHON names the interpreter to make the virtual environment with (default: python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

install_into .venv --editable '.[plots]'

sizes=("$@")
[[ ${#sizes[@]} -gt 0 ]] || sizes=(small large)
for size in "${sizes[@]}"; do
  run=runs/scenes/$size
  sweep=configs/sweeps/claims.py:size=$size
  owl2 train --config="configs/scenes/warmup.py:size=$size" --workdir="$run/warmup"
  owl2 train --config="configs/scenes/stage1.py:size=$size" --workdir="$run/stage1"
  owl2 sweep "$sweep" --workdir="$run/claims" --jobs="${JOBS:-2}"
  owl2 sweep "$sweep" --workdir="$run/claims" --collect --plot=scenes/word --plot=scenes/count
  further=configs/sweeps/claims_further.py:size=$size
  owl2 sweep "$further" --workdir="$run/further" --jobs="${JOBS:-2}"
  owl2 sweep "$further" --workdir="$run/further" --collect
done
