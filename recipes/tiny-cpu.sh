#!/usr/bin/env bash
# From an autoregressive checkpoint to a preference-trained block-diffusion model, on two testbeds:
# children's stories (a real parent, real text) and worked sums (quality is exact match).
#
#   recipes/tiny-cpu.sh [--quick] [--out DIR] [--seed N]
#
# conversion -> continued pre-training (WSD block sizes) -> mean of the best checkpoints
# -> fine-tuning -> confidence-aware training -> preference training -> generation
#
# DIR (runs/tiny, or runs/tiny-quick) gets {cpt,merged,sft,cap,dpo}/final, the same under sums/, and
# summary.json: what each model measures, and for each stage its own metric before and after. The
# program ends with 1 if a stage did not improve that; --quick, less than a minute to see that everything
# runs, only says so. What DIR holds is not done again: after an interruption, give the same command.
# N is the seed of every training, instead of the recipes' own: another order of the data, other noise.
#
# Needs cargo and coreutils. LLADA=PROGRAM runs that program instead of `cargo run --release`.
set -euo pipefail
export LC_ALL=C # numbers have a point

main() {
    parse_arguments "$@"
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    mkdir -p "$out"
    require_one size "$size"
    require_one seed "$seed"
    data=$out/data
    [[ -d $data ]] || make_data
    summary=() worse=()
    pipeline stories
    pipeline sums
    write_summary >"$out/summary.json"
    say "$out/summary.json ($SECONDS s in this session)"
    [[ $size == quick ]] || require_improvement
}

parse_arguments() {
    size=full
    out=
    seed=recipes seeded=()
    while (($#)); do
        case $1 in
            --quick) size=quick ;;
            --out)
                out=$(realpath -m -- "${2:?--out needs a directory}")
                shift
                ;;
            --seed)
                seed=${2:?--seed needs a number}
                seeded=(--set train.seed="$seed")
                shift
                ;;
            *) refuse "unknown argument \`$1\`; usage: recipes/tiny-cpu.sh [--quick] [--out DIR] [--seed N]" ;;
        esac
        shift
    done
    [[ $out ]] || out=runs/tiny$([[ $size == full ]] || echo -quick)
    program=(cargo run --release --quiet --)
    [[ -z ${LLADA:-} ]] || program=("$(realpath -- "$LLADA")")
}

refuse() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

# require_one WHAT VALUE: a directory holds the full run or the quick one, of one seed, never some of both.
require_one() {
    [[ -e $out/$1 ]] || echo "$2" >"$out/$1"
    local held
    held=$(<"$out/$1")
    [[ $held == "$2" ]] || refuse "\`$out\` holds a run of another $1, $held; choose another --out"
}

say() {
    printf '\n== %s\n' "$*" >&2
}

llada() {
    printf '$ llada %s\n' "$*" >&2
    "${program[@]}" "$@"
}

# by_size FULL QUICK: the one that this run takes.
by_size() {
    [[ $size == full ]] && echo "$1" || echo "$2"
}

# Held-out texts as many as this run measures, and worked sums: the first of the streams of seeds 1 (for
# training) and 3 (held out). `llada eval sums` asks those of seed 2 that are not among those of seed 1.
make_data() {
    say "data"
    local made=$data.partial count
    rm -rf "$made"
    mkdir "$made"
    count=$(by_size 150 4)
    head -n "$count" assets/stories/valid.jsonl >"$made/stories.jsonl"
    head -n "$count" assets/stories-sft/valid.jsonl >"$made/answers.jsonl"
    llada sums write --seed 1 --count "$(by_size 60000 500)" --out "$made/sums.jsonl"
    llada sums write --seed 3 --count "$(by_size 300 4)" --out "$made/sums-valid.jsonl"
    llada sums write --pairs --seed 1 --count "$(by_size 2000 100)" --out "$made/sum-pairs.jsonl"
    llada sums write --pairs --seed 3 --count "$(by_size 200 4)" --out "$made/sum-pairs-valid.jsonl"
    mv "$made" "$data"
}

# pipeline TESTBED: every stage begins where the one before it ended.
pipeline() {
    testbed=$1
    "describe_$testbed"
    quick=() quick_cpt=()
    [[ $size == full ]] || describe_quick
    convert
    train cpt "$dir/converted" "${sources[@]}" "${quick_cpt[@]}"
    merge
    train sft "$dir/merged/final" "${sources[@]}"
    train cap "$dir/sft/final" "${sources[@]}"
    train dpo "$dir/cap/final" "${pairs[@]}"
    measure_models
    compare
    say "$testbed: what the last model writes"
    llada generate "$dir/dpo/final" --prompt "$prompt" --threshold "$threshold" --max-new-tokens 96
}

describe_stories() {
    parent=assets/tinystories-656k dir=$out block=8 threshold=0.5 prompt="Once upon a time"
    texts=$data/stories.jsonl answers=$data/answers.jsonl quality="parent's NLL"
    sources=() pairs=() # those of the recipes
}

describe_sums() {
    parent=assets/worked-sums/parent dir=$out/sums block=16 threshold=0.95 prompt="641-179="
    texts=$data/sums-valid.jsonl answers=$data/sums-valid.jsonl quality=exact
    sources=(--set data.train="$data/sums.jsonl" --set data.valid="$texts")
    pairs=(--set data.train="$data/sum-pairs.jsonl" --set data.valid="$data/sum-pairs-valid.jsonl")
}

# What makes every training quick, and continued pre-training one of all its parts.
describe_quick() {
    quick=(--set train.steps=6 --set optimizer.warmup_steps=1 --set train.batch_documents=4
        --set train.eval_documents=4 --set train.eval_draws=1)
    local stages="{block=1,steps=1},{block=128,steps=1},{block=$block,steps=4}"
    quick_cpt=(--set "objective.block_schedule=[$stages]"
        --set train.eval_every=2 --set train.checkpoint_every=2 --set train.keep_best=2)
}

convert() {
    [[ ! -d $dir/converted ]] || return 0
    say "$testbed: conversion"
    rm -rf "$dir/converted.partial"
    llada convert "$parent" "$dir/converted" --block-size "$block" --label-alignment shifted
}

# train STAGE FROM FLAGS...: trains $dir/STAGE from a checkpoint, or goes on with it.
train() {
    local stage=$1 from=$2
    [[ ! -d $dir/$stage/final ]] || return 0
    shift 2
    say "$testbed: $stage"
    local resume=()
    [[ ! -d $dir/$stage/checkpoints ]] || resume=(--resume)
    llada train "recipes/tiny-$testbed-$stage.toml" --run-dir "$dir/$stage" "${resume[@]}" \
        --set model.path="$from" "${seeded[@]}" "$@" "${quick[@]}"
}

merge() {
    [[ ! -d $dir/merged/final ]] || return 0
    say "$testbed: the mean of the best checkpoints"
    rm -rf "$dir/merged"
    llada merge --run "$dir/cpt" --metric "block_$block" --best "$(by_size 3 2)" --dtype f32 \
        --out "$dir/merged/final"
}

measure_models() {
    say "$testbed: what each model measures"
    mkdir -p "$dir/measured"
    measure converted "$dir/converted"
    local stage
    for stage in cpt merged sft cap dpo; do
        measure "$stage" "$dir/$stage/final"
    done
}

# measure NAME MODEL: bounds in nats per token on held-out texts and on held-out answers, tokens per
# forward at one threshold, and how good what is decoded then is.
measure() {
    local file=$dir/measured/$1.json model=$2 on_texts on_answers decoded forwards good
    [[ ! -e $file ]] || return 0
    on_texts=$(bound "$model" "$texts")
    on_answers=$(bound "$model" "$answers")
    decoded=$("decode_$testbed" "$model" | tail -n 1) # the parent has the first line
    number on_texts "$on_texts" nll_per_token
    number on_answers "$on_answers" nll_per_token
    number forwards "$decoded" tokens_per_forward
    number good "$decoded" "$quality"
    object bound_on_texts "$on_texts" bound_on_answers "$on_answers" \
        tokens_per_forward "$forwards" "$quality" "$good" >"$file.partial"
    mv "$file.partial" "$file"
}

bound() {
    llada eval nll "$1" --data "$2" --mode "block:$block" --draws 4 --json
}

decode_stories() {
    llada eval text "$parent" "$1" --thresholds "$threshold" --json --data "$texts" \
        --count "$(by_size 30 2)" --max-new-tokens "$(by_size 128 16)"
}

decode_sums() {
    llada eval sums "$parent" "$1" --thresholds "$threshold" --json --count "$(by_size 200 4)"
}

# Each stage's own metric, in the model before it and in its own.
compare() {
    stages=()
    printf '\n%-8s %-7s %-18s %12s %12s\n' "" stage metric before after >&2
    stage cpt bound_on_texts lower converted
    stage merged bound_on_texts lower cpt
    stage sft bound_on_answers lower merged
    stage cap tokens_per_forward higher sft
    local held_out margin accuracy
    held_out=$(tail -n 1 "$dir/dpo/metrics.jsonl")
    held_out=${held_out##*\"valid\"} # the margin of a model over itself is 0
    number margin "$held_out" dpo_margin
    number accuracy "$held_out" dpo_accuracy
    row dpo dpo_margin higher 0 "$margin" accuracy "$accuracy"
    local model models=()
    for model in converted cpt merged sft cap dpo; do
        models+=("$model" "$(<"$dir/measured/$model.json")")
    done
    summary+=("$testbed" "$(object models "$(object "${models[@]}")" stages "$(object "${stages[@]}")")")
}

# stage NAME METRIC BETTER BEFORE: compares the model of a stage with that of the one before.
stage() {
    local before after
    number before "$(<"$dir/measured/$4.json")" "$2"
    number after "$(<"$dir/measured/$1.json")" "$2"
    row "$1" "$2" "$3" "$before" "$after"
}

# row STAGE METRIC BETTER BEFORE AFTER [KEY JSON]...
row() {
    printf '%-8s %-7s %-18s %12.4f %12.4f\n' "$testbed" "${@:1:2}" "$4" "$5" >&2
    local improved=true
    is_better "${@:3:3}" || improved=false
    [[ $improved == true ]] || worse+=("$testbed $1")
    stages+=("$1" "$(object metric "\"$2\"" better "\"$3\"" before "$4" after "$5" \
        improved "$improved" "${@:6}")")
}

# is_better lower|higher BEFORE AFTER
is_better() {
    case $1 in
        lower) ! printf '%s\n' "$2" "$3" | sort -g -C ;;
        higher) ! printf '%s\n' "$3" "$2" | sort -g -C ;;
    esac
}

# number VARIABLE JSON KEY: assigns the first number under a key.
number() {
    [[ $2 =~ \"$3\":\ *(-?[0-9][0-9.eE+-]*) ]] || refuse "no number \`$3\` in $2"
    printf -v "$1" %s "${BASH_REMATCH[1]}"
}

# object KEY JSON...: a JSON object.
object() {
    local separator=
    printf '{'
    while (($#)); do
        printf '%s\n"%s": %s' "$separator" "$1" "$2"
        separator=,
        shift 2
    done
    printf '\n}'
}

write_summary() {
    object size "\"$size\"" "${summary[@]}"
    echo
}

require_improvement() {
    ((${#worse[@]} == 0)) && return
    printf 'error: no better for it: %s\n' "${worse[@]}" >&2
    exit 1
}

main "$@"
