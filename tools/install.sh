#!/bin/sh
# Fill the virtual environment from the locks; `make install` calls this with VENV, PYTHON and TORCH set.
#
# torch comes first and alone, so that nothing else chooses its build. It goes through pip, which honours whatever
# index or wheel folder this machine's pip is configured with. Everything else is checked against its hash.
set -eu
cd "$(dirname "$0")/.."

wheels=$VENV/share/aios/wheels
started=$(date +%s)

step() { echo "[$(($(date +%s) - started))s] $*"; }

pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }

install_torch() {
    # A GPU needs the ordinary build with its CUDA libraries. Without one they are gigabytes of dead weight.
    if ! [ -e /dev/nvidiactl ] && pip install "torch==$TORCH+cpu" --no-deps; then
        return
    fi
    echo "No CPU-only build of torch is used here: installing the ordinary one, which brings its CUDA libraries."
    pip install "torch==$TORCH"
}

if ! [ -x "$VENV/bin/python" ]; then
    step "virtual environment in $VENV, on $("$PYTHON" --version)"
    "$PYTHON" -m venv "$VENV"
fi

step "torch $TORCH"
install_torch

step "everything else, from requirements/common.lock"
pip install --quiet --require-hashes -r requirements/bootstrap.lock
"$VENV/bin/uv" pip install --python "$VENV/bin/python" --no-deps --require-hashes \
    -r requirements/common.lock -r requirements/digits.lock
"$VENV/bin/uv" pip install --python "$VENV/bin/python" --quiet --no-deps --no-build-isolation -e .

step "libpython, for Triton's Python backend"
VENV=$VENV tools/libpython.sh

step "Triton and the environment of its models, kept as wheels for the first \`aios up\`"
mkdir -p "$wheels"
pip download --quiet --no-deps --require-hashes --only-binary :all: --dest "$wheels" -r requirements/triton.lock
pip download --quiet --no-deps --require-hashes --only-binary :all: --dest "$wheels" -r requirements/model.lock
cp requirements/model.lock "$wheels/model.lock"

step "installed"
