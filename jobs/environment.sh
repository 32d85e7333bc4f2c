# Sourced by the jobs: how to reach Python. Set what fits, here or in the environment.
: "${VIGMPI_MODULES:=}"    # modules to load first, as "python mpi"
: "${VIGMPI_VENV:=.venv}"  # a virtual environment, used where it exists
: "${VIGMPI_IMAGE:=}"      # an Apptainer image made from jobs/vigmpi.def, used instead of it

# shellcheck disable=SC2086 (a list of words)
[ -z "$VIGMPI_MODULES" ] || module load $VIGMPI_MODULES
python=(python3)
if [ -n "$VIGMPI_IMAGE" ]; then
    python=(apptainer exec "$VIGMPI_IMAGE" python3)
elif [ -e "$VIGMPI_VENV/bin/activate" ]; then
    . "$VIGMPI_VENV/bin/activate"
fi

# study_flags STEPS TEST_STEPS DATA STAGES REPLICAS CHUNKS: the study's settings for a layout.
# 0 steps: its two epochs of CIFAR-10 a copy, so two for each replica.
study_flags() {
    local epochs=1
    [ "$1" -gt 0 ] || epochs=$((2 * $5))
    flags=(--steps "$1" --test-steps "$2" --data-dir "$3" --epochs "$epochs" --batch-size 1000
        --stages "$4" --replicas "$5" --chunks "$6" --overwrite)
}
