#!/usr/bin/env bash
# nanochat at one commit, then its own runs/speedrun.sh, so that an attempt after a lost pod goes on from a checkpoint.
# Its script keeps everything in $HOME/.cache/nanochat, which is on the run's volume here, and saves at the end only:
# pretraining is told to save in between and where to resume.
set -euo pipefail

commit=92d63d4e8bb4df75c3b71618f31ddde2378b2bcd
gpus=8
# Code and environment on the container's own disk: an import reads a hundred thousand files.
code="${TMPDIR:-/tmp}/nanochat"
checkpoints="$HOME/.cache/nanochat/base_checkpoints/d24"
export PATH="$HOME/.local/bin:$PATH" # where the script installs uv

# Bytes of checkpoint $1 when it is whole: the optimizer's part of each GPU is written last.
whole_bytes() {
  local parts=("$checkpoints/optim_$1"_rank*.pt)
  [ "${#parts[@]}" -eq "$gpus" ] && [ -e "${parts[0]}" ] && [ -e "$checkpoints/meta_$1.json" ] || return 0
  cat "$checkpoints/model_$1.pt" "${parts[@]}" | wc -c
}

# The newest whole checkpoint; one that is smaller than the one before was cut off while it was written.
newest() {
  local step size best="" largest=0
  for step in $(ls "$checkpoints" 2> /dev/null | sed -n 's/^model_\([0-9]*\)\.pt$/\1/p' | sort -n); do
    size=$(whole_bytes "$step")
    if [ -n "$size" ] && [ "$size" -ge "$largest" ]; then best=$step largest=$size; fi
  done
  [ -z "$best" ] || echo $((10#$best))
}

[ -d "$code/.git" ] || git init -q "$code"
cd "$code"
git fetch -q --depth 1 https://github.com/karpathy/nanochat.git "$commit"
git checkout -q --force FETCH_HEAD

more="--save-every=1000"
step=$(newest)
if [ -n "$step" ]; then
  echo "attempt ${PUSHTRAIN_ATTEMPT:-1} goes on from checkpoint $step"
  more="$more --resume-from-step=$step"
fi
sed -i "/scripts\.base_train/s/ --run=/ $more --run=/" runs/speedrun.sh
grep -q -- "$more" runs/speedrun.sh # or nothing would be saved before the end

# Without -e the script would go on after a failed step, and bill hours for nothing.
exec bash -e runs/speedrun.sh
