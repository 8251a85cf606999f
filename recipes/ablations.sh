#!/usr/bin/env bash
# What single choices of a conversion are worth, at equal tokens of documents: every variant of
# recipes/ablation-stories.toml with three seeds, then the table of docs/experiments.md on stdout.
#
#   recipes/ablations.sh [DIR]
#
# DIR is runs/ablations; runs that it holds are not repeated. Uses one thread, of `cargo run --release`
# or of the program that LLADA names. Needs cargo, coreutils and awk.
set -euo pipefail
export LC_ALL=C

out=$(realpath -m -- "${1:-runs/ablations}")
program=(cargo run --release --quiet --)
[[ -z ${LLADA:-} ]] || program=("$(realpath -- "$LLADA")")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seeds=(1 2 3)
blocks=(1 8 32)

# Variants in the order of the table: a name, then what it sets.
variants=(
    "direct"
    "WSD 2-32-512-32-8|objective.block_schedule=[{block=2,steps=8},{block=32,steps=7},{block=512,steps=60},{block=32,steps=15},{block=8,steps=60}]"
    "WSD 2-16-8|objective.block_schedule=[{block=2,steps=20},{block=16,steps=40},{block=8,steps=90}]"
    "one mask ratio per document|objective.rate_scope=document"
    "no band|objective.mask_ratio_band=[0.001,1.0]"
    "narrow band|objective.mask_ratio_band=[0.2,0.8]"
    "twins|objective.complementary=true"
    "narrow band and twins|objective.mask_ratio_band=[0.2,0.8]|objective.complementary=true"
    "MASK noise, 15 steps|objective.mask_noise_steps=15"
    "labels at the same position|model.path=$out/same"
)

llada() {
    "${program[@]}" --threads 1 "$@"
}

# run_dir VARIANT SEED
run_dir() {
    local name=${1%%|*}
    echo "$out/${name// /_}-$2"
}

# run DIR SEED SETTING...: trains and measures one run.
run() {
    local dir=$1 seed=$2 setting block flags=()
    shift 2
    for setting in model.path="$out/shifted" train.seed="$seed" "$@"; do
        flags+=(--set "$setting")
    done
    [[ -d $dir/final ]] || rm -rf "$dir"
    [[ -d $dir ]] || llada train recipes/ablation-stories.toml --run-dir "$dir" "${flags[@]}"
    for block in "${blocks[@]}"; do
        [[ -e $dir/block_$block ]] && continue
        bound "$dir/final" "$block" >"$dir/block_$block.partial"
        mv "$dir/block_$block.partial" "$dir/block_$block"
    done
}

# bound MODEL BLOCK: nats per token of the first 100 held-out stories.
bound() {
    local measured
    measured=$(llada eval nll "$1" --data <(head -n 100 assets/stories/valid.jsonl) \
        --mode "block:$2" --draws 4 --json)
    [[ $measured =~ \"nll_per_token\":([0-9.]+) ]] && echo "${BASH_REMATCH[1]}"
}

# Mean of some files with a number each, and the distance of the largest from the smallest.
spread() {
    cat "$@" | awk '
        NR == 1 { low = high = $1 }
        { sum += $1; if ($1 < low) low = $1; if ($1 > high) high = $1 }
        END { printf " %.3f (%.3f) |", sum / NR, high - low }'
}

for labels in shifted same; do
    [[ -d $out/$labels ]] || llada convert assets/tinystories-656k "$out/$labels" \
        --block-size 8 --label-alignment "$labels"
done
for seed in "${seeds[@]}"; do # all variants have one seed before any has two
    for variant in "${variants[@]}"; do
        IFS='|' read -ra words <<<"$variant"
        run "$(run_dir "$variant" "$seed")" "$seed" "${words[@]:1}" >&2
    done
done

printf '| variant |%s\n' "$(printf ' B %s |' "${blocks[@]}")"
printf '|---|%s\n' "$(printf -- '---|%.0s' "${blocks[@]}")"
for variant in "${variants[@]}"; do
    printf '| %s |' "${variant%%|*}"
    for block in "${blocks[@]}"; do
        spread "$(run_dir "$variant" "")"*"/block_$block"
    done
    echo
done
