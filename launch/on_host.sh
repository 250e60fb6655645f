#!/usr/bin/env bash
# Runs a command on one host of several and starts it again after failures.
#
#   bash launch/on_host.sh owl2 train --config=FILE --workdir=FOLDER
set -euo pipefail
# shellcheck source=launch/restarts.sh
source "$(dirname "${BASH_SOURCE[0]}")/restarts.sh"

restart "$@"
