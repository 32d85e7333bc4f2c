#!/bin/bash
# Train in all layouts of the file $LAYOUTS (default: jobs/layouts.txt), one after the other, with
# mpirun. Start from the top of the repository:
#   jobs/workstation.sh [STEPS] [TEST_STEPS] [DATA] [FLAGS...]
# STEPS 0 runs the complete study. Records are written to the folder $RESULTS (default: results).
set -euo pipefail
steps=${1:-0} test_steps=${2:-0} data=${3:-data} results=${RESULTS:-results}

. jobs/environment.sh
mkdir -p "$results"

# set_binding RANKS: set `binding` to the flags that give each rank its own cores, if there are
# enough cores. The flags depend on the MPI library.
set_binding() {
    local cores=$(($(nproc) / $1))
    binding=()
    [ "$cores" -gt 0 ] || return 0
    if mpirun --version 2>&1 | grep -q "Open MPI"; then
        binding=(--map-by "slot:PE=$cores" --bind-to core)
    else
        binding=(-bind-to "core:$cores")
    fi
}

grep -v '^#' "${LAYOUTS:-jobs/layouts.txt}" | while read -r name stages replicas chunks more; do
    ranks=$((stages * replicas))
    set_binding "$ranks"
    study_flags "$steps" "$test_steps" "$data" "$stages" "$replicas" "$chunks"
    echo "== $name"
    # shellcheck disable=SC2086 (a list of flags)
    mpirun -n "$ranks" "${binding[@]}" "${vigmpi[@]}" "${flags[@]}" $more \
        --record "$results/$name.h5" "${@:4}" </dev/null
done
