#!/bin/bash
# All layouts of jobs/layouts.txt, or of the file $LAYOUTS, one after the other, with mpirun. From
# the top of the repository:
#   jobs/workstation.sh [STEPS] [TEST_STEPS] [DATA] [FLAGS...]
# STEPS 0 is the whole study. The records go to the folder $RESULTS, or to results.
set -euo pipefail
steps=${1:-0} test_steps=${2:-0} data=${3:-data} results=${RESULTS:-results}

. jobs/environment.sh
mkdir -p "$results"

# Each rank on cores of its own, where there are enough; the flags differ between MPI libraries.
pin() {
    local cores=$(($(nproc) / $1))
    bind=()
    [ "$cores" -gt 0 ] || return 0
    if mpirun --version 2>&1 | grep -q "Open MPI"; then
        bind=(--map-by "slot:PE=$cores" --bind-to core)
    else
        bind=(-bind-to "core:$cores")
    fi
}

grep -v '^#' "${LAYOUTS:-jobs/layouts.txt}" | while read -r name stages replicas chunks more; do
    ranks=$((stages * replicas))
    pin "$ranks"
    study_flags "$steps" "$test_steps" "$data" "$stages" "$replicas" "$chunks"
    echo "== $name"
    # shellcheck disable=SC2086 (a list of flags)
    mpirun -n "$ranks" "${bind[@]}" "${python[@]}" -m vigmpi "${flags[@]}" $more \
        --record "$results/$name.h5" "${@:4}" </dev/null
done
