#!/bin/sh
# Install a lock into ENVIRONMENT, hash by hash: install.sh LOCK [cpu|cuda]. The build stages of the Dockerfile run it, and prove.py.
#
# Source distributions are built by the pinned tools of build.lock, so nothing is fetched that no lock names.
set -eu

lock=$1
torch=${2:-}
build=${BUILD:-/build}
environment=${ENVIRONMENT:-/opt/venv}
tools=$build/tools/bin/python

case "$torch" in
  "") ;;
  # By name: an index that has none fails here, instead of handing over the CUDA build, which PyPI serves under the same version.
  cpu) sed -i 's/^torch==\([^ +]*\)/torch==\1+cpu/' "$lock" ;;
  cuda) cat cuda.lock >> "$lock" ;;
  *) echo "error: TORCH=$torch; accepted: cpu, cuda" >&2; exit 2 ;;
esac

# `pip wheel` checks the hashes; the wheels it leaves, built ones too, are then all that is installed.
"$tools" -m pip wheel --no-cache-dir --no-deps --no-build-isolation --require-hashes --wheel-dir "$build/wheels" -r "$lock"
"$tools" -m pip --python "$environment/bin/python" install --no-cache-dir --no-compile --no-deps --no-index "$build"/wheels/*.whl
"$tools" -m pip --python "$environment/bin/python" check

if [ -n "$torch" ]; then
  # Which build pip found depends on the index: an image that calls itself cpu and ships CUDA is 5 GB of surprise.
  "$environment/bin/python" -c "
import sys, torch
build = 'cpu' if torch.version.cuda is None else 'cuda'
sys.exit(None if build == '$torch' else f'error: TORCH=$torch, but the index gave the {build} build of torch')"
fi
rm -rf "$build/wheels"
