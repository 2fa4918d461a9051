#!/bin/sh
# The checks on a machine without a network: `offline.sh OPTION...`, those of `python -m
# experiments.gpu_check`, in the root of a checkout beside what `experiments.gpu_check.pack` made.
set -u
began=$(date +%s)
site=$(mktemp -d)
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
    --target "$site" .gpu/wheels/*.whl || exit 2
export PYTHONPATH="$site:$PWD/.gpu/peers${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONUTF8=1
if [ -d .gpu/compiled ]; then
    cp -R .gpu/compiled/. .
    # Of another Python or C library: then all of it runs from its sources.
    python3 -c 'import superinfer.engine.engine, sim.driver' || export SUPERINFER_INTERPRETED=1
fi
exec python3 -m experiments.gpu_check --fast --began "$began" "$@"
