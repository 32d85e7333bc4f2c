# Settings and functions of the job scripts, which source this file. Adapt the defaults below, or
# set the variables in the environment.
: "${VIGMPI_MODULES:=}"      # environment modules to load first, for example "python mpi"
: "${VIGMPI_VENV:=.venv}"    # virtual environment to activate, if it exists
: "${VIGMPI_IMAGE:=}"        # Apptainer image built from jobs/vigmpi.def; replaces VIGMPI_VENV
: "${VIGMPI_RESTARTS:=100}"  # maximum number of times that a job is requeued

set +u # modules and environments may read unset variables
# shellcheck disable=SC2086 (a list of words)
[ -z "$VIGMPI_MODULES" ] || module load $VIGMPI_MODULES
python=(python3)
if [ -n "$VIGMPI_IMAGE" ]; then
    python=(apptainer exec "$VIGMPI_IMAGE" python3)
elif [ -e "$VIGMPI_VENV/bin/activate" ]; then
    . "$VIGMPI_VENV/bin/activate"
fi
set -u

# study_flags STEPS TEST_STEPS DATA STAGES REPLICAS CHUNKS: set `flags` to the study's settings
# (jobs/study.toml). With STEPS 0, train for 2 epochs per replica, because every replica of the study trained on 2
# epochs' worth of images.
study_flags() {
    local epochs=1
    [ "$1" -gt 0 ] || epochs=$((2 * $5))
    flags=(--config jobs/study.toml --steps "$1" --test-steps "$2" --data-dir "$3"
        --epochs "$epochs" --stages "$4" --replicas "$5" --chunks "$6")
}

# go_on RECORD: add the flag to `flags` that trains for a new record or goes on with an unfinished
# one. Return 1 if the record is finished; exit if it was written with other flags.
go_on() {
    local status=3 mode=--overwrite
    flags+=(--record "$1")
    if [ -s "$1" ]; then
        status=0
        "${python[@]}" -c "$record_status" "$1" "${flags[@]}" || status=$?
    fi
    case $status in
    0) echo "finished before: $1. Remove it to train again." && return 1 ;;
    2) echo "other flags before: $1. Remove it, or set RESULTS to another folder." >&2 && exit 2 ;;
    4) ! compgen -G "$1.checkpoints/mini-batch-*" >/dev/null || mode=--resume=latest ;;
    esac
    flags+=("$mode")
}
# Exit with 0 if a record is finished, 2 if other flags wrote it, 4 if it is unfinished, and 3 if it
# cannot be read.
record_status='
import sys
try:
    import h5py
    attributes = dict(h5py.File(sys.argv[1]).attrs)
except OSError:
    sys.exit(3)
modes = {"--overwrite", "--resume=latest"}
words = " ".join(sys.argv[2:]).split()
if [word for word in attributes["command"].split()[1:] if word not in modes] != words:
    sys.exit(2)
sys.exit(0 if attributes.get("finished") else 4)
'

# train_on TASKS FLAGS...: train in a job step. A requeued job resumes from its latest checkpoint.
# Exit status 75 means that the run was stopped and left a checkpoint: requeue the job.
train_on() {
    local status=0 restarts=${SLURM_RESTART_COUNT:-0} job=$SLURM_JOB_ID options=("${@:2}")
    [ "$restarts" -eq 0 ] || options+=(--resume=latest)
    # The last task of an array has the number of the array, which would requeue all of them.
    [ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    # Since Slurm 22.05, srun does not inherit --cpus-per-task from sbatch.
    srun --ntasks="$1" ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
        --cpu-bind=cores --kill-on-bad-exit=1 \
        "${python[@]}" -m vigmpi "${options[@]}" || status=$?
    if [ "$status" -eq 75 ] && [ "$restarts" -lt "$VIGMPI_RESTARTS" ]; then
        scontrol requeue "$job"
    fi
    return "$status"
}
