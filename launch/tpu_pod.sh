#!/usr/bin/env bash
# Trains on all workers of one TPU pod slice (Cloud TPU virtual machines), over ssh.
#
#   export TPU_NAME=NAME ZONE=us-west4-a        (PROJECT too, when it is not gcloud's default)
#   bash launch/tpu_pod.sh setup                copy this checkout to every worker and install it
#   bash launch/tpu_pod.sh train ARGUMENTS      start `owl2 train ARGUMENTS` on every worker
#   bash launch/tpu_pod.sh status               what runs, and the last lines of worker 0
#   bash launch/tpu_pod.sh stop                 save and stop
#
# The run directory given with --workdir lies where every worker sees it: in a
# bucket (gs://BUCKET/NAME), or on a file share. Training goes on when this machine
# is switched off; after a failure every worker starts again from the newest checkpoint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  sed -n '2,15s/^# \{0,1\}//p' launch/tpu_pod.sh >&2
  exit 2
}
[ $# -ge 1 ] || usage
: "${TPU_NAME:?set TPU_NAME to the name of the slice}" "${ZONE:?set ZONE to its zone}"

tpu() { gcloud compute tpus tpu-vm "$@" --zone="$ZONE" ${PROJECT:+--project="$PROJECT"}; }
on_every_worker() { tpu ssh "$TPU_NAME" --worker=all --command="$1"; }

action=$1
shift
case $action in
  setup)
    archive=$(mktemp --suffix=.tar.gz)
    trap 'rm -f "$archive"' EXIT
    tar --exclude=.git --exclude='.venv*' --exclude=runs --exclude=__pycache__ -czf "$archive" .
    tpu scp "$archive" "$TPU_NAME:owl2_jax.tar.gz" --worker=all
    # The machine images come with a Python that is too old; uv brings a newer one.
    on_every_worker 'mkdir -p owl2_jax && tar -xzf owl2_jax.tar.gz -C owl2_jax && cd owl2_jax &&
      python3 -m pip install --quiet --user uv && python3 -m uv venv --quiet --allow-existing --python 3.12 .venv &&
      python3 -m uv pip install --quiet --python .venv/bin/python --editable ".[gcs]" "jax[tpu]"'
    ;;
  train)
    [ $# -ge 1 ] || usage
    # Quoted for the shell at the other end.
    printf -v quoted '%q ' "$@"
    on_every_worker "cd owl2_jax && mkdir -p runs && export PATH=\$PWD/.venv/bin:\$PATH && \
(nohup setsid bash launch/on_host.sh owl2 train $quoted>>runs/train.log 2>&1 </dev/null & echo \$! >runs/train.pid)"
    ;;
  status)
    # shellcheck disable=SC2016 # expanded on the worker
    on_every_worker 'kill -0 "$(cat owl2_jax/runs/train.pid)" && echo "$(hostname): running"' || true
    tpu ssh "$TPU_NAME" --worker=0 --command='tail -n 20 owl2_jax/runs/train.log'
    ;;
  stop)
    # The whole process group: first the loop that would start again, and the training with it.
    # shellcheck disable=SC2016 # expanded on the worker
    on_every_worker 'kill -TERM -- "-$(cat owl2_jax/runs/train.pid)"'
    ;;
  *)
    usage
    ;;
esac
