#!/bin/sh
# The small track on all GPUs of this machine: ./run.sh [--seed N] [--save-checkpoint]
# NUM_GPUS=1, 2 or 4 where there are not 8; DATA_PATH is the folder that holds data/fineweb10B.
cd "$(dirname "$0")" || exit 1
export DATA_PATH="${DATA_PATH:-.}"
exec torchrun --standalone --nproc_per_node="${NUM_GPUS:-8}" train_gpt.py "$@"
