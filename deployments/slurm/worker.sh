#!/usr/bin/env bash
# Keeps a Prefect worker alive, which runs campaigns: `nohup ./worker.sh &` on a login or service node, or, where no process
# may stay there, `sbatch worker.sh` in a long job that needs little. The environment, or the active profile of Prefect,
# names the server (PREFECT_API_URL).
#
# Ten minutes before the end of its job it submits itself again, ends its campaigns in order and has them retried: they
# continue in the next job. On SIGTERM (scancel --batch --signal=TERM, or kill) it ends campaigns and worker in order; Retry
# continues them.
#SBATCH --job-name=surveyor-worker
##SBATCH --partition=NAME
#SBATCH --time=7-00:00:00
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --signal=B:USR1@600
#SBATCH --output=surveyor-worker-%j.log
set -u
pool=${1:-slurm}
job=${SLURM_JOB_ID-}

# The jobs that campaigns submit are no steps of this one, and must not take its variables for theirs.
for name in "${!SLURM_@}"; do
    [[ $name == SLURM_CONF ]] || unset "$name"
done

# Its children are the processes of campaigns. On SIGTERM they close their pools, which cancels the jobs of these. One that
# does not is killed after a while; its pools end by themselves. The worker ends when there was no campaign for five seconds,
# in which it reports the last ends: the place of a campaign that ended may be given to another one.
end_campaigns() {
    declare -gA ended=()
    local deadline=$((SECONDS + 180)) quiet=0
    while ((quiet < 5)); do
        processes=$(pgrep -P "$worker") && quiet=0 || quiet=$((quiet + 1))
        for process in $processes; do
            ((SECONDS < deadline)) || kill -KILL "$process"
            [[ -v ended[$process] ]] && continue
            ended[$process]=$(tr '\0' '\n' <"/proc/$process/environ" | sed -n 's/^PREFECT__FLOW_RUN_ID=//p')
            kill -TERM "$process"
        done
        sleep 1
    done
    kill -KILL "$worker"
    wait "$worker"
}

hand_over() {
    sbatch --dependency="afterany:$job" "$0" "$pool" # first, as nothing may prevent it
    end_campaigns
    for run in "${ended[@]}"; do
        prefect flow-run retry "$run"
    done
    exit
}

trap hand_over USR1
trap 'end_campaigns; exit' TERM INT
while true; do
    prefect worker start --pool "$pool" &
    worker=$!
    wait "$worker"
    echo "the worker ended with status $?; it starts again in a minute" >&2
    sleep 60 &
    wait $!
done
