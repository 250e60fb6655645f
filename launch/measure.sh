#!/usr/bin/env bash
# Measures a training step, prefill and decoding on one TPU or GPU machine, from a
# bare image, beside what the compiled program should take (a forecast on a TPU, a
# bound on a GPU). The 7B model is cut to the layers that fit; a TPU also takes a step
# with splash attention. Writes one JSON and prints one row for
# docs/pages/reference/measured.md; 12 minutes with the install.
#
#   bash launch/measure.sh [FILE.json]      (default: measured.json)
#
# Without an accelerator it runs a small model, to show that it works.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

accelerator=cpu
if compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null; then
  accelerator=tpu
elif command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus >/dev/null 2>&1; then
  accelerator=cuda12
fi
echo "measuring on: $accelerator" >&2
if [ -z "${OWL2_INSTALLED:-}" ]; then # set where owl2 is there already
  if [ "$accelerator" = cpu ]; then
    install_into .venv-measure --editable .
  else
    install_into .venv-measure --editable . "jax[$accelerator]"
  fi
fi

started=$SECONDS
owl2 bench machine --output="${1:-measured.json}"
echo "measured in $((SECONDS - started)) s after the install" >&2
