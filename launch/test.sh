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

# The chat page is tested in a real browser.
if ! command -v chromium chromium-browser google-chrome chrome >/dev/null &&
  command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends chromium >/dev/null
fi

ruff check .
ruff format --check .
lint-imports
# Two workers: most of the time goes into compiling, which keeps one core busy. Files stay in
# their order: by number of tests, the longest ones would come last and leave a worker idle.
pytest --numprocesses "${OWL2_TEST_WORKERS:-2}" --dist loadfile --no-loadscope-reorder --durations 15 "$@"
