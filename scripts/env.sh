# shellcheck shell=bash
# Sourced by the other scripts: a virtual environment in .venv with the extras that are asked for.
#
# The first time llama.cpp is compiled for this CPU, about 6 minutes on 2 cores, unless pip finds a
# wheel of it (it keeps what it made). Later calls find the stamp and return at once.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { echo "$(basename "$0"): $*" >&2; exit 1; }

# Only what we use of llama.cpp: no tools, server, examples or multimodal parts.
LEAN_FLAGS="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF"
LEAN_FLAGS+=" -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF"

# No AMX: GCC before 12.4 drops what llama.cpp writes into the tiles' configuration (GCC's bug
# 114098), and the first batch dies of an illegal instruction. A wheel with it, kept by pip from
# before, is made again.
NO_AMX="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
[[ $(uname -m) == x86_64 ]] || NO_AMX=

has_amx() {
    .venv/bin/python -c '
import sys, llama_cpp
sys.exit(b"AMX_INT8 = 1" not in llama_cpp.llama_print_system_info())'
}

make_venv() {
    local python=${PYTHON:-python3}
    command -v "$python" >/dev/null || die "no $python here; install Python 3.11 or set PYTHON"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$("$python" --version) is too old; install Python 3.11 or set PYTHON"
    # pip comes last: without it the one that is there was never finished
    [[ -x .venv/bin/pip ]] || "$python" -m venv .venv ||
        die "no virtual environment can be made here; install python3-venv (apt-get install python3-venv)"
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

# has_extras demo,dev: whether .venv has them, installed alone or with others.
has_extras() {
    local stamp extra
    for stamp in .venv/installed-*; do
        [[ $(cat "$stamp" 2>/dev/null) == "$wanted" ]] || continue
        for extra in ${1//,/ }; do
            [[ ,${stamp#.venv/installed-}, == *,$extra,* ]] || continue 2
        done
        return 0
    done
    return 1
}

# hnswlib comes as source alone.
has_python_headers() {
    .venv/bin/python - <<'END'
import pathlib, sys, sysconfig
sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").is_file())
END
}

pip_install() {
    CMAKE_ARGS="${CMAKE_ARGS:-} $LEAN_FLAGS" CFLAGS="${CFLAGS:-} $NO_AMX" \
        CXXFLAGS="${CXXFLAGS:-} $NO_AMX" run_with_signs_of_life "installing" .venv/install.log \
        .venv/bin/python -m pip install --disable-pip-version-check "$@"
}

# install_extras demo,dev: this checkout with those extras.
install_extras() {
    local extras=$1 wanted
    make_venv
    wanted=$(cat pyproject.toml scripts/env.sh | sha256sum)
    if ! has_extras "$extras"; then
        command -v c++ >/dev/null || die "no C++ compiler; install g++ (apt-get install g++)"
        has_python_headers || die "no C headers of Python; install them (apt-get install python3-dev)"
        echo "==> installing [$extras] into .venv (log: .venv/install.log): about 6 minutes on 2 cores"
        echo "    if llama.cpp has to be compiled for this CPU, half a minute if pip finds a wheel of it"
        pip_install -e ".[$extras]"
        if has_amx; then
            .venv/bin/python -m pip cache remove llama_cpp_python >/dev/null
            pip_install --force-reinstall --no-deps \
                "$(.venv/bin/python -m pip freeze | grep '^llama_cpp_python==')"
        fi
        echo "$wanted" >".venv/installed-$extras"
    fi
    PATH="$PWD/.venv/bin:$PATH"
}

# start_server: `persona serve` with the default bundle and the demo world on a free port, until the
# script ends; PERSONA_URL says where. A server that PERSONA_URL names already is used instead.
#
# One thread, for whatever talks to it works on the same cores: threads of llama.cpp that wait for
# one another make a busy machine many times slower.
start_server() {
    local port log
    [[ -z ${PERSONA_URL:-} ]] || return 0
    install_extras demo,docs
    persona bundle build
    persona embedder build
    port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    log=$(mktemp)
    export PERSONA_URL=http://127.0.0.1:$port
    echo "==> persona serve at $PERSONA_URL (log: $log)"
    env -u PERSONA_URL PERSONA_THREADS="${PERSONA_THREADS:-1}" persona serve --port "$port" >"$log" 2>&1 &
    server=$!
    # shellcheck disable=SC2064 (the log is this one)
    trap "kill $server 2>/dev/null; wait $server 2>/dev/null || true; rm -f '$log'" EXIT
    for _ in {1..600}; do
        python -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1])' "$PERSONA_URL/readyz" \
            2>/dev/null && return
        kill -0 "$server" 2>/dev/null || break
        sleep 0.2
    done
    cat "$log" >&2
    die "persona serve is not ready"
}
