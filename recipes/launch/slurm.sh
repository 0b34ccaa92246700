#!/bin/bash
# Four machines with 8 GPUs each, under Slurm: `sbatch recipes/launch/slurm.sh recipe.yaml`. One task is one process.
# The run's folder has to lie on a file system that all machines see. Killed or requeued, the same script goes on.
#SBATCH --job-name=align
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail

export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK

srun --kill-on-bad-exit=1 bash -c '
    export WORLD_SIZE=$SLURM_NTASKS RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID
    exec align train "$@"
' align "$@"
