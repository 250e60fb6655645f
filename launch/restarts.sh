# shellcheck shell=bash
# Sourced by the other scripts.
#
# restart COMMAND...   runs a command again when it fails in a way that a restart may cure
#
# Training goes on from its newest checkpoint, so starting it again is all there
# is to do. Not restarted: success, code 2 (a mistake in the command, the config
# or the data), 130 (interrupted). RESTARTS (default 20) bounds the attempts,
# RESTART_DELAY (default 15 seconds) lets the other hosts notice that one is gone.
restart() {
  local attempt=0 code
  while true; do
    code=0
    "$@" || code=$?
    case $code in
      0 | 2 | 130) return "$code" ;;
    esac
    attempt=$((attempt + 1))
    if [ "$attempt" -gt "${RESTARTS:-20}" ]; then
      echo "gave up after $attempt attempts; the last one ended with code $code" >&2
      return "$code"
    fi
    echo "attempt $attempt ended with code $code; starting again in ${RESTART_DELAY:-15} s" >&2
    sleep "${RESTART_DELAY:-15}"
  done
}
