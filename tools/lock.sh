#!/bin/sh
# Resolve every lock again. The newest versions that fit are taken; `tools/lock.sh --upgrade-package NAME` moves one
# alone, and without arguments everything keeps its version unless an input no longer allows it.
set -eu
cd "$(dirname "$0")/.."

compile() {
    out=$1
    shift
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-header --output-file "requirements/$out.lock" "$@"
    echo "requirements/$out.lock: $(grep -c == "requirements/$out.lock") packages"
}

# uv is there before (bootstrap): it installs the others.
compile common pyproject.toml requirements/common.in --extra dev --no-emit-package torch --no-emit-package uv "$@"
compile bootstrap requirements/bootstrap.in "$@"
compile digits requirements/digits.in --no-deps "$@"
compile model requirements/model.in "$@"
compile triton requirements/triton.in --no-deps "$@"
compile build requirements/build.in "$@"
compile supply requirements/supply.in "$@"
compile mlflow requirements/mlflow.in "$@"
compile ray requirements/ray.in --constraint requirements/common.lock "$@"
# What each image of deploy/compose holds: parts of the common lock. Lists of files are read by clients, by jobs and by
# the data service alone.
mkdir -p requirements/images
image() {
    name=$1
    shift
    compile "images/$name" pyproject.toml --extra "$name" --constraint requirements/common.lock \
        --no-emit-package torch "$@"
}
image data
image worker
for one in gateway scheduler trainer inference; do
    image "$one" --no-emit-package pyarrow --no-emit-package fastcdc
done
