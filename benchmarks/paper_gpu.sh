#!/usr/bin/env bash
# What a GPU is best used for, in this order, and no longer than it is lent:
#
#   python benchmarks/paper.py pack --data Dataset_BUSI_with_GT --out sets/busi.npz
#   bash benchmarks/paper_gpu.sh sets runs 25   # whole minutes; the same line goes on from there
#
# "sets" holds splits.json with the near-duplicates and, per set, what pack made (busi.npz) or the folder itself
# under that name (busi, glas, kvasir, Task04_Hippocampus); a step whose data are not there is left out and says
# so. BUSI packed at 256 pixels has 33 MiB. Packed, GlaS has 108 and Kvasir-SEG 135 MiB, more than their folders,
# whose pictures are JPEG: carry these. "runs" keeps a JSON per finished run and the place of the one under way,
# so bring it back and give it again. WIDTHS (published) and EXTRA (--compile) in the environment go to every
# line.
set -euo pipefail
sets=$1 out=$2 minutes=$3
widths=${WIDTHS:-published}
here=$(dirname "$0")
export PYTHONUNBUFFERED=1

run() { # TABLE DATA [options]: what is left of the time, at least one epoch
    local left=$((minutes * 60 - SECONDS)) table=$1 data=$sets/$2
    shift 2
    [ -e "$data" ] || data=$data.npz
    if ((left <= 0)); then
        echo "Time is up before: $table $data $*"
        exit 0
    fi
    if [ ! -e "$data" ]; then
        echo "Left out, there is no $data: $table $*"
        return
    fi
    # shellcheck disable=SC2086
    python "$here/paper.py" "$table" --data "$data" --out "$out" --widths "$widths" --incomplete \
        --minutes "$(awk "BEGIN { print $left / 60 }")" ${EXTRA:-} "$@" || echo "FAILED, the rest goes on: $table $data $*"
}

first="prosma-unet unet attention-unet"
# 1. Ours and the two networks that it is built on: as the paper's tables do it, then honestly.
run table1 busi --models $first
if [ -e "$sets/splits.json" ]; then
    run table1 busi --models $first --clusters "$sets/splits.json" --inner 0.1
fi
# 2. The other networks of Table 1.
run table1 busi
# 3. Table 3; the prox against the dense gate; the gates' norms; where lambda starts and how fast it moves.
run table3 busi
run table3 busi --gate-norm none
for threshold in 0.1 0.6931471805599453 1.5; do
    for rate in 1 10; do
        run table3 busi --preset paper2d --models prosma --threshold "$threshold" --threshold-rate "$rate"
    done
done
# 4. The other sets.
run table1 glas --models $first
run table1 kvasir --preset kvasir --models $first
run table2 Task04_Hippocampus
run table1 glas
run table1 kvasir --preset kvasir
run table1 kvasir --preset ukan2_exact --models ukan2 prosma-unet
