#!/usr/bin/env bash
# Runs a Prefect worker and restarts it if it ends. Usage: worker.sh [WORK_POOL]; the default pool is slurm.
#
# Run `nohup ./worker.sh &` on a login or service node. If the node does not allow long-running processes, run
# `sbatch worker.sh`: a long job that needs few resources. PREFECT_API_URL, from the environment or from the active Prefect
# profile, names the server.
#
# Ten minutes before its walltime the job submits its successor, stops its campaigns cleanly and schedules their retry, so
# that they continue in the next job. On SIGTERM (scancel --batch --signal=TERM, or kill) it stops campaigns and worker
# cleanly; Retry continues the campaigns.
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

# Jobs that campaigns submit are not steps of this job: they must not inherit its SLURM variables.
for name in "${!SLURM_@}"; do
    [[ $name == SLURM_CONF ]] || unset "$name"
done

# The children of the worker are the processes of campaigns. On SIGTERM they close their pools, which cancels the pools'
# jobs. A campaign that is still alive after three minutes is killed; its pools end by themselves. When a campaign ends, the
# worker may start a waiting one in its place, so the worker is stopped only after five seconds without a campaign. In these
# seconds it also reports the last campaigns as ended.
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
    sbatch --dependency="afterany:$job" "$0" "$pool" # first, so that nothing can prevent it
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
    echo "the worker ended with status $?; restarting it in a minute" >&2
    sleep 60 &
    wait $!
done
