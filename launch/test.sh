#!/usr/bin/env bash
# Installs the test extra into its own virtual environment and runs everything:
# lint, import contracts, tests. Arguments go to pytest.
#
#   bash launch/test.sh [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

install_into .venv-test --editable '.[test]'

ruff check .
ruff format --check .
lint-imports
# Two workers: most of the time goes into compiling, which keeps one core busy.
pytest --numprocesses "${OWL2_TEST_WORKERS:-2}" --dist loadfile "$@"
