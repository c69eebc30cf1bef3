# shellcheck shell=bash
# Sourced by the other scripts: a virtual environment in .venv with the extras that are asked for.
#
# The first time llama.cpp is compiled for this CPU (5 to 10 minutes on 2 cores; pip keeps the
# result). Later calls find the stamp and return at once.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { echo "$(basename "$0"): $*" >&2; exit 1; }

# Only what we use of llama.cpp: no tools, server, examples or multimodal parts.
LEAN_FLAGS="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF"
LEAN_FLAGS+=" -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF"

make_venv() {
    local python=${PYTHON:-python3}
    command -v "$python" >/dev/null || die "no $python here; install Python 3.11 or set PYTHON"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$("$python" --version) is too old; install Python 3.11 or set PYTHON"
    [[ -x .venv/bin/python ]] || "$python" -m venv .venv
}

# Runs a command with its output in a log, and says every 20 s that it is still at work.
run_with_signs_of_life() {
    local what=$1 log=$2 start=$SECONDS pid
    shift 2
    "$@" >"$log" 2>&1 &
    pid=$!
    trap 'kill $pid 2>/dev/null' INT TERM
    while kill -0 $pid 2>/dev/null; do
        sleep 1
        (((SECONDS - start) % 20)) || echo "    $what, $((SECONDS - start)) s so far"
    done
    trap - INT TERM
    wait $pid || { tail -n 40 "$log" >&2; die "$what failed; the whole log is $log"; }
}

# install_extras demo,dev: this checkout with those extras.
install_extras() {
    local extras=$1 stamp wanted
    make_venv
    stamp=.venv/installed-$extras
    wanted=$(cat pyproject.toml scripts/env.sh | sha256sum)
    if [[ $(cat "$stamp" 2>/dev/null) != "$wanted" ]]; then
        command -v c++ >/dev/null || die "no C++ compiler; install g++ (apt-get install g++)"
        echo "==> installing [$extras] into .venv; the first time this compiles llama.cpp"
        echo "    for this CPU, 5 to 10 minutes on 2 cores (log: .venv/install.log)"
        CMAKE_ARGS="${CMAKE_ARGS:-} $LEAN_FLAGS" run_with_signs_of_life \
            "installing" .venv/install.log .venv/bin/python -m pip install \
            --disable-pip-version-check -e ".[$extras]"
        echo "$wanted" >"$stamp"
    fi
    PATH="$PWD/.venv/bin:$PATH"
}
