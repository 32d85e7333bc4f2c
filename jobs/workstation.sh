#!/bin/bash
# Train in all layouts of the file $LAYOUTS (default: jobs/layouts.txt), one after the other, with
# mpirun. Start from the top of the repository:
#   jobs/workstation.sh [STEPS] [TEST_STEPS] [DATA] [FLAGS...]
# STEPS 0 runs the complete study. Records are written to the folder $RESULTS (default: results).
set -euo pipefail
steps=${1:-0} test_steps=${2:-0} data=${3:-data} results=${RESULTS:-results}

. jobs/environment.sh
mkdir -p "$results"

# set_launcher RANKS: set `launcher` to the command that starts ranks, each with its own cores if
# there are enough. The flags depend on the MPI library.
set_launcher() {
    local cores=$(($(nproc) / $1))
    launcher=(mpirun -n "$1")
    [ "$cores" -gt 0 ] || return 0
    if mpirun --version 2>&1 | grep -q "Open MPI"; then
        launcher+=(--map-by "slot:PE=$cores" --bind-to core)
    else
        launcher+=(-bind-to "core:$cores")
    fi
}

grep -v '^#' "${LAYOUTS:-jobs/layouts.txt}" | while read -r name stages replicas chunks more; do
    ranks=$((stages * replicas))
    set_launcher "$ranks"
    study_flags "$steps" "$test_steps" "$data" "$stages" "$replicas" "$chunks"
    echo "== $name"
    # shellcheck disable=SC2206 (a list of flags)
    flags+=($more "${@:4}")
    go_on "$results/$name.h5" || continue
    "${launcher[@]}" "${python[@]}" -m vigmpi "${flags[@]}" </dev/null
done
