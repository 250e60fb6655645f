#!/usr/bin/env bash
# Trains, evaluates and shows the small model on the embedded corpus.
#
#   bash launch/quickstart.sh [FOLDER]      (default: runs/quickstart)
#
# Interrupted, the same command goes on where it was. PYTHON names the
# interpreter to make the virtual environment with (default: python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

run=${1:-runs/quickstart}
install_into .venv --editable '.[plots]'

started=$SECONDS
owl2 train --config=configs/tiny/warmup.py --workdir="$run/warmup"
owl2 train --config=configs/tiny/stage1.py --workdir="$run/stage1" train.start_from="$run/warmup"
owl2 train --config=configs/tiny/stage2.py --workdir="$run/stage2" train.start_from="$run/stage1"
owl2 evaluate --checkpoint="$run/stage2" --benchmarks=easy_vqa,drawn_group,drawn_color,drawn_group_yes_no,facts --output="$run"
owl2 report --run="$run"

cat <<EOM

Done in $((SECONDS - started)) s after the install. Look at
  $run/report.png     loss curves, and test images with question, answer and truth
  $run/scores.json    scores
and ask it something yourself:
  source .venv/bin/activate
  owl2 chat --checkpoint $run/stage2 --image FILE
EOM
