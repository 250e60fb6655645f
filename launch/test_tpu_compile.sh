#!/usr/bin/env bash
# Compiles for TPUs that are not there, with the real TPU compiler: the attention
# kernels forward and backward for three generations, the full model's decode
# step, and a small training step.
#
#   bash launch/test_tpu_compile.sh
#
# Apart from launch/test.sh because the compiler is a download of hundreds of
# megabytes, and because other programs look for a TPU where it is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

install_into .venv-fit --editable '.[fit]'

# One process each: the compiler reads once which slice it serves.
for topology in v5e:4x4 v5p:2x2x1 v6e:2x2; do
  python -m tests.model.tpu_kernels "$topology"
done
# Fails unless 32 answers of the full model fit four chips: a copy of the cache would show.
owl2 fit --preset=owl2_7b --topology=v5e:2x2 --what=decode --rows=32 --length=2048
owl2 fit --preset=owl2_tiny --topology=v5e:2x2 --rows=4 --length=128 model.scan_unroll=1
