#!/bin/bash
# @about@
#
#   bash THIS_FILE       submits frames, trunks and experiments, each after the one before, and prints the job numbers
#
# When they are done, on any machine that sees the same state:
#   @collect@
# A task that was killed, preempted or ran out of time goes on from its last checkpoint when it is submitted again.
@header@
#SBATCH --requeue
set -euo pipefail
shopt -s inherit_errexit
script=$(realpath "$0")
@exports@
cd @root@

datasets=(
@datasets@
)
trunks=(
@trunks@
)
experiments=(
@experiments@
)

fovea() { @fovea@ "$@"; }

# submit AFTER OPTIONS…: prints the number of the job, which starts when AFTER (numbers with colons between) went well
submit() {
  local after=$1
  shift
  sbatch --parsable ${after:+--dependency=afterok:$after --kill-on-invalid-dep=yes} "$@" | cut -d';' -f1
}

# array PHASE AFTER COUNT: as many arrays as COUNT tasks need; prints their numbers with colons between
array() {
  local phase=$1 after=$2 count=$3 offset=0 last number numbers=""
  while [ "$offset" -lt "$count" ]; do
    last=$(( count - offset < @size@ ? count - offset - 1 : @size@ - 1 ))
    number=$(submit "$after" @gpus@ --array=0-$last@at_once@ "$script" "$phase" "$offset")
    numbers+=${numbers:+:}$number
    offset=$(( offset + @size@ ))
  done
  echo "$numbers"
}

phase=${1:-submit}
place=$(( ${2:-0} + ${SLURM_ARRAY_TASK_ID:-0} ))
threads=${SLURM_CPUS_PER_TASK:-1}
# of each process that shares a training
share=$(( threads > @ranks@ ? threads / @ranks@ : 1 ))
case $phase in
  submit)
    mkdir -p @folder@
    after=$(submit "" "$script" frames)
    echo "frames       $after"
    if [ ${#trunks[@]} -gt 0 ]; then
      after=$(array trunk "$after" ${#trunks[@]})
      echo "trunks       $after (${#trunks[@]} tasks)"
    fi
    if [ ${#experiments[@]} -gt 0 ]; then
      numbers=$(array experiment "$after" ${#experiments[@]})
      echo "experiments  $numbers (${#experiments[@]} tasks)"
    fi
    ;;
  frames)
    for dataset in "${datasets[@]}"; do
      fovea run --frames-only --dataset "$dataset" --threads "$threads" --device cpu
    done
    ;;
  trunk) fovea train "${trunks[$place]}" --threads "$share" --device @device@@processes@ ;;
  experiment) fovea train "${experiments[$place]}" --threads "$share" --device @device@@processes@ ;;
  *) echo "unknown phase $phase" >&2; exit 2 ;;
esac
