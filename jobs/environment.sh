# Settings and functions of the job scripts, which source this file. Adapt the defaults below, or
# set the variables in the environment.
: "${VIGMPI_MODULES:=}"      # environment modules to load first, for example "python mpi"
: "${VIGMPI_VENV:=.venv}"    # virtual environment to activate, if it exists
: "${VIGMPI_IMAGE:=}"        # Apptainer image built from jobs/vigmpi.def; replaces VIGMPI_VENV
: "${VIGMPI_RESTARTS:=100}"  # maximum number of times that a job is requeued

# shellcheck disable=SC2086 (a list of words)
[ -z "$VIGMPI_MODULES" ] || module load $VIGMPI_MODULES
vigmpi=(python3 -m vigmpi)
if [ -n "$VIGMPI_IMAGE" ]; then
    vigmpi=(apptainer exec "$VIGMPI_IMAGE" vigmpi)
elif [ -e "$VIGMPI_VENV/bin/activate" ]; then
    . "$VIGMPI_VENV/bin/activate"
fi

# study_flags STEPS TEST_STEPS DATA STAGES REPLICAS CHUNKS: set `flags` to the study's settings
# (jobs/study.toml). With STEPS 0, train for 2 epochs per replica, because every replica of the study trained on 2
# epochs' worth of images.
study_flags() {
    local epochs=1
    [ "$1" -gt 0 ] || epochs=$((2 * $5))
    flags=(--config jobs/study.toml --steps "$1" --test-steps "$2" --data-dir "$3"
        --epochs "$epochs" --stages "$4" --replicas "$5" --chunks "$6" --overwrite)
}

# train_on TASKS FLAGS...: train in a job step. A requeued job resumes from its latest checkpoint.
# Exit status 75 means that the run was stopped and left a checkpoint: requeue the job.
train_on() {
    local status=0 restarts=${SLURM_RESTART_COUNT:-0} resume=()
    [ "$restarts" -eq 0 ] || resume=(--resume latest)
    # Since Slurm 22.05, srun does not inherit --cpus-per-task from sbatch.
    srun --ntasks="$1" ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
        --cpu-bind=cores --kill-on-bad-exit=1 \
        "${vigmpi[@]}" "${@:2}" "${resume[@]}" || status=$?
    if [ "$status" -eq 75 ] && [ "$restarts" -lt "$VIGMPI_RESTARTS" ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    return "$status"
}
