# Sourced by the jobs: how to reach Python, and how to start and go on. Set what fits, here or in
# the environment.
: "${VIGMPI_MODULES:=}"      # modules to load first, as "python mpi"
: "${VIGMPI_VENV:=.venv}"    # a virtual environment, used where it exists
: "${VIGMPI_IMAGE:=}"        # an Apptainer image made from jobs/vigmpi.def, used instead of it
: "${VIGMPI_RESTARTS:=100}"  # how often a job that ran out of time is put back into the queue

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

# train_on TASKS FLAGS...: a job's training. A job that was put back goes on from its checkpoint;
# one that ran out of time (status 75: it left a checkpoint) is put back.
train_on() {
    local status=0 restarts=${SLURM_RESTART_COUNT:-0} resume=()
    [ "$restarts" -eq 0 ] || resume=(--resume latest)
    # Slurm's srun does not take --cpus-per-task over from sbatch by itself.
    srun --ntasks="$1" ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
        --cpu-bind=cores --kill-on-bad-exit=1 \
        "${python[@]}" -m vigmpi "${@:2}" "${resume[@]}" || status=$?
    if [ "$status" -eq 75 ] && [ "$restarts" -lt "$VIGMPI_RESTARTS" ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    return "$status"
}
