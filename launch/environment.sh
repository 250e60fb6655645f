# Sourced by the other scripts: makes a virtual environment once and installs into it.
#
# install_into DIRECTORY REQUIREMENT...   installs when setup.py or the list changed

install_into() {
  local directory=$1
  shift
  local stamp="$directory/.installed"
  local wanted
  wanted="$(cat setup.py) $*"
  if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    "${PYTHON:-python3}" -m venv "$directory"
    # Modules are compiled when they are first imported: most of what is installed never is.
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile "$@"
    printf '%s' "$wanted" >"$stamp"
  fi
  export PATH="$PWD/$directory/bin:$PATH"
}
