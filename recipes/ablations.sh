#!/usr/bin/env bash
# What single choices are worth: the tables of docs/experiments.md on stdout, three seeds each.
#
#   recipes/ablations.sh [DIR [TABLE...]]
#
# DIR is runs/ablations; runs that it holds are not repeated. TABLE is one of
#   choices  a conversion with one respect changed, at equal tokens of documents
#   labels   shifted labels and labels at the same position over three budgets
#   cap      confidence-aware training of worked sums, by its weight
#   dpo      preference pairs told apart, in training and held out
#   edit     worked sums decoded with and without correction of placed tokens
#   turns    insertions and deletions learned in one look at a draft, or in several
#   pipeline what each model of the pipeline measures
#   parent   the models of the pipeline beside its parent
# and all of them if none is named. All but the first two need what recipes/tiny-cpu.sh leaves in the
# directory that PIPELINE names, runs/tiny; the last two besides those of seeds 2 and 3 in PIPELINE-2
# and PIPELINE-3, and they run what is not there yet.
#
# Uses one thread (pipelines all), of `cargo run --release` or of the program that LLADA names. Needs
# cargo, coreutils, sed and awk.
set -euo pipefail
export LC_ALL=C

out=$(realpath -m -- "${1:-runs/ablations}")
tables=("${@:2}")
((${#tables[@]})) || tables=(choices labels cap dpo edit turns pipeline parent)
pipeline=$(realpath -m -- "${PIPELINE:-runs/tiny}")
pipelines=("$pipeline" "$pipeline-2" "$pipeline-3")
program=(cargo run --release --quiet --)
[[ -z ${LLADA:-} ]] || program=("$(realpath -- "$LLADA")")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seeds=(1 2 3)

# Variants of `choices` in the order of the table: a name, then what it sets.
variants=(
    "direct"
    "WSD 2-32-512-32-8|objective.block_schedule=[{block=2,steps=8},{block=32,steps=7},{block=512,steps=60},{block=32,steps=15},{block=8,steps=60}]"
    "WSD 2-16-8|objective.block_schedule=[{block=2,steps=20},{block=16,steps=40},{block=8,steps=90}]"
    "one mask ratio per document|objective.rate_scope=document"
    "no band|objective.mask_ratio_band=[0.001,1.0]"
    "narrow band|objective.mask_ratio_band=[0.2,0.8]"
    "twins|objective.complementary=true"
    "narrow band and twins|objective.mask_ratio_band=[0.2,0.8]|objective.complementary=true"
    "loss over tokens, by 1/t|objective.normalisation=elbo_token"
    "loss over tokens of a document|objective.normalisation=sequence"
    "MASK noise, 15 steps|objective.mask_noise_steps=15"
    "labels at the same position|model.path=$out/same"
)

llada() {
    "${program[@]}" --threads 1 "$@"
}

# trained DIR RECIPE SETTING...: trains a run that is not there yet.
trained() {
    local dir=$1 recipe=$2 setting flags=()
    shift 2
    [[ ! -d $dir/final ]] || return 0
    for setting; do
        flags+=(--set "$setting")
    done
    rm -rf "$dir"
    llada train "recipes/$recipe.toml" --run-dir "$dir" "${flags[@]}" >&2
}

# kept FILE COMMAND...: what a command writes to stdout, in a file that is not there yet.
kept() {
    [[ ! -e $1 ]] || return 0
    "${@:2}" >"$1.partial"
    mv "$1.partial" "$1"
}

# number KEY [FILE]: the last number of that key in JSON.
number() {
    grep -oE "\"$1\": *-?[0-9.eE+-]+" "${@:2}" | tail -n 1 | sed 's/.*: *//'
}

# bound MODEL BLOCK: nats per token of the first 100 held-out stories.
bound() {
    llada eval nll "$1" --data <(head -n 100 assets/stories/valid.jsonl) \
        --mode "block:$2" --draws 4 --json | number nll_per_token
}

# spread PRECISION FILE...: mean of files with a number each, and the largest minus the smallest.
spread() {
    cat "${@:2}" | awk -v f="%.$1f" '
        NR == 1 { low = high = $1 }
        { sum += $1; if ($1 < low) low = $1; if ($1 > high) high = $1 }
        END { printf " " f " (" f ") |", sum / NR, high - low }'
}

# header TITLE...: the first two lines of a table.
header() {
    printf '| %s ' "$@"
    printf '|\n'
    printf -- '|---%.0s' "$@"
    printf '|\n'
}

converted() {
    local labels
    for labels in shifted same; do
        [[ -d $out/$labels ]] || llada convert assets/tinystories-656k "$out/$labels" \
            --block-size 8 --label-alignment "$labels" >&2
    done
}

table_choices() {
    local seed variant block dir words
    for seed in "${seeds[@]}"; do # all variants have one seed before any has two
        for variant in "${variants[@]}"; do
            IFS='|' read -ra words <<<"$variant"
            dir=$out/${words[0]//[ \/]/_}-$seed
            trained "$dir" ablation-stories model.path="$out/shifted" train.seed="$seed" "${words[@]:1}"
            for block in 1 8 32; do
                kept "$dir/block_$block" bound "$dir/final" "$block"
            done
        done
    done
    header variant "B 1" "B 8" "B 32"
    for variant in "${variants[@]}"; do
        variant=${variant%%|*}
        printf '| %s |' "$variant"
        for block in 1 8 32; do
            spread 3 "$out/${variant//[ \/]/_}-"?"/block_$block"
        done
        echo
    done
}

# Batches a third of those of `choices`: 75, 225 and 675 thousand tokens.
table_labels() {
    local seed steps labels dir block
    for seed in "${seeds[@]}"; do
        for steps in 50 150 450; do
            for labels in shifted same; do
                labels_run "$labels-$steps-$seed" "$out/$labels" "$steps" "$seed"
            done
        done
        relabelled "$seed"
        labels_run "late-150-$seed" "$out/relabelled-$seed" 150 "$seed"
    done
    header labels steps "B 1" "B 8"
    for dir in {shifted,same}-{50,150,450} late-150; do
        printf '| %s | %s |' "${dir%-*}" "${dir#*-}"
        for block in 1 8; do
            spread 3 "$out/labels/$dir-"?"/block_$block"
        done
        echo
    done
}

# labels_run NAME MODEL STEPS SEED
labels_run() {
    local dir=$out/labels/$1 block
    trained "$dir" ablation-stories model.path="$2" train.seed="$4" train.batch_documents=8 \
        train.steps="$3" objective.block_schedule="[{block=8,steps=$3}]"
    for block in 1 8; do
        kept "$dir/block_$block" bound "$dir/final" "$block"
    done
}

# A shifted child whose configuration says from now on that labels are at the same position.
relabelled() {
    local to=$out/relabelled-$1
    [[ ! -d $to ]] || return 0
    rm -rf "$to.partial"
    cp -r "$out/labels/shifted-450-$1/final" "$to.partial"
    sed -i 's/"label_alignment": *"shifted"/"label_alignment": "same"/' "$to.partial/config.json"
    grep -q '"label_alignment": *"same"' "$to.partial/config.json"
    mv "$to.partial" "$to"
}

sums_data=(data.train="$pipeline/data/sums.jsonl" data.valid="$pipeline/data/sums-valid.jsonl")

# sums_run NAME RECIPE FROM SEED SETTING...: worked sums, half the batch of the pipeline.
sums_run() {
    trained "$out/$1" "$2" model.path="$pipeline/sums/$3/final" train.seed="$4" \
        "${sums_data[@]}" train.batch_documents=32 "${@:5}"
}

# The model before, which solves nine sums of ten, and 80 steps that differ in lambda alone.
table_cap() {
    local seed lambda threshold dir key
    for seed in "${seeds[@]}"; do
        for lambda in 0 0.5 1 2; do
            dir=cap/$lambda-$seed
            sums_run "$dir" tiny-sums-cap merged "$seed" cap.lambda="$lambda" train.steps=80
            for threshold in 0.95 0.7; do
                kept "$out/$dir/solved_$threshold" solve "$out/$dir/final" "$threshold"
                for key in tokens_per_forward exact; do
                    number "$key" "$out/$dir/solved_$threshold" >"$out/$dir/$key-$threshold"
                done
            done
        done
    done
    header lambda "tokens per forward, 0.95" "exact, 0.95" "tokens per forward, 0.7" "exact, 0.7"
    for lambda in 0 0.5 1 2; do
        printf '| %s |' "$lambda"
        for threshold in 0.95 0.7; do
            spread 2 "$out/cap/$lambda-"?"/tokens_per_forward-$threshold"
            spread 3 "$out/cap/$lambda-"?"/exact-$threshold"
        done
        echo
    done
}

# solve MODEL THRESHOLD: 200 unseen sums; the last line is that of the child.
solve() {
    llada eval sums assets/worked-sums/parent "$1" --thresholds "$2" --count 200 --json
}

table_dpo() {
    local seed testbed key dir
    for seed in "${seeds[@]}"; do
        trained "$out/dpo/stories-$seed" tiny-stories-dpo model.path="$pipeline/cap/final" \
            train.seed="$seed"
        trained "$out/dpo/sums-$seed" tiny-sums-dpo model.path="$pipeline/sums/cap/final" \
            data.train="$pipeline/data/sum-pairs.jsonl" \
            data.valid="$pipeline/data/sum-pairs-valid.jsonl" train.seed="$seed"
        for testbed in stories sums; do
            dir=$out/dpo/$testbed-$seed
            tail -n 1 "$dir/metrics.jsonl" >"$dir/last"
            sed 's/"valid".*//' "$dir/last" | number dpo_accuracy >"$dir/trained"
            for key in dpo_accuracy dpo_margin; do
                sed 's/.*"valid"//' "$dir/last" | number "$key" >"$dir/$key"
            done
        done
    done
    header pairs "accuracy of the last batch" "accuracy held out" "margin held out"
    for testbed in stories sums; do
        printf '| %s |' "$testbed"
        spread 3 "$out/dpo/$testbed-"?/trained
        spread 3 "$out/dpo/$testbed-"?/dpo_accuracy
        spread 2 "$out/dpo/$testbed-"?/dpo_margin
        echo
    done
}

# 80 steps with masks alone or with wrong tokens and drafts besides, from the model that solves nine
# sums of ten.
table_edit() {
    local seed kind edit dir key
    for seed in "${seeds[@]}"; do
        sums_run "edit/masks-$seed" tiny-sums-sft merged "$seed" train.steps=80 \
            objective.complementary=false
        sums_run "edit/drafts-$seed" tiny-sums-sft merged "$seed" train.steps=80 \
            objective.complementary=false edit.turns=2
        for kind in masks drafts; do
            dir=$out/edit/$kind-$seed
            for edit in off 0.9 0.5; do
                decoded "$dir" "$edit"
            done
        done
    done
    header "trained on" "edits above" "tokens per forward" exact
    for kind in masks drafts; do
        for edit in off 0.9 0.5; do
            printf '| %s | %s |' "$kind" "$edit"
            spread 2 "$out/edit/$kind-"?"/tokens-$edit"
            spread 3 "$out/edit/$kind-"?"/exact-$edit"
            echo
        done
    done
}

# decoded DIR EDIT: tokens per forward and the share of right answers of a run's model.
decoded() {
    kept "$1/answers-$2" decode_with "$2" "$1/final"
    judge "$1/answers-$2" tokens >"$1/tokens-$2"
    judge "$1/answers-$2" exact >"$1/exact-$2"
}

# decode_with EDIT MODEL: the answers to the first 200 held-out sums at threshold 0.7.
decode_with() {
    llada generate "$2" --threshold 0.7 --edit "$1" --max-new-tokens 96 --json --requests \
        <(head -n 200 "$pipeline/data/sums-valid.jsonl" | sed 's/,"response".*/}/')
}

# judge ANSWERS tokens|exact: tokens per forward, or the share of right answers.
judge() {
    local right=$pipeline/data/sums-valid.jsonl
    paste -d '\t' <(head -n 200 "$right" | sed 's/.*"response":"//; s/".*//') \
        <(sed 's/.*"text":"//; s/".*//' "$1") \
        <(sed 's/.*"output_ids":\[//; s/\].*//' "$1") \
        <(sed 's/.*"forwards":{//; s/}.*//; s/[^0-9,]//g' "$1") | awk -F '\t' -v what="$2" '
        { exact += $1 == $2; tokens += split($3, ids, ","); split($4, f, ","); forwards += f[1] + f[2] + f[3] }
        END { print what == "exact" ? exact / NR : tokens / forwards }'
}

# 300 steps with masks alone, or half of them drafts to repair, looked at once or several times; from a
# model with tokens that edit, whose labels are at the same position.
table_turns() {
    local seed looks edit dir recipe turns
    base_of_turns
    for seed in "${seeds[@]}"; do
        for looks in 0 1 2 3; do
            dir=$out/turns/$looks-$seed recipe=levenshtein-sums-2core turns=(levenshtein.turns="$looks")
            ((looks)) || recipe=sums-child-2core turns=()
            trained "$dir" "$recipe" model.path="$out/turns/base/final" train.seed="$seed" "${sums_data[@]}" \
                train.steps=300 train.batch_documents=32 optimizer.lr=1e-3 "${turns[@]}"
            for edit in off revise:0.9 revise:0.5; do
                decoded "$dir" "$edit"
            done
        done
    done
    header "looks at a draft" "repairs above" "tokens per forward" exact
    for looks in 0 1 2 3; do
        for edit in off revise:0.9 revise:0.5; do
            printf '| %s | %s |' "$looks" "${edit#revise:}"
            spread 2 "$out/turns/$looks-"?"/tokens-$edit"
            spread 3 "$out/turns/$looks-"?"/exact-$edit"
            echo
        done
    done
}

# The model that learned to fill masks: an AR parent, then blocks, all from nothing.
base_of_turns() {
    local dir=$out/turns
    [[ -d $dir/init ]] || llada sums init "$dir/init" --edit-tokens
    trained "$dir/parent" sums-parent-2core model.config="$dir/init/config.json" \
        model.tokenizer="$dir/init" "${sums_data[@]}" train.steps=400
    [[ -d $dir/converted ]] || llada convert "$dir/parent/final" "$dir/converted" --block-size 16 \
        --label-alignment same >&2
    trained "$dir/base" sums-child-2core model.path="$dir/converted" "${sums_data[@]}" train.steps=2000
}

# The three pipelines, whether or not each of their stages improved what it is for.
run_pipelines() {
    local seed dir flags=()
    for seed in "" 2 3; do
        [[ -z $seed ]] || flags=(--seed "$seed")
        dir=$pipeline${seed:+-$seed}
        [[ -e $dir/summary.json ]] || recipes/tiny-cpu.sh --out "$dir" "${flags[@]}" >&2 ||
            [[ -e $dir/summary.json ]]
    done
}

# of_pipelines FILE KEY PRECISION: a number of the same file in each of the three.
of_pipelines() {
    spread "$3" <(for dir in "${pipelines[@]}"; do number "$2" "$dir/$1"; done)
}

table_pipeline() {
    local model column
    run_pipelines
    header "stories" "bound on texts" "bound on answers" "tokens per forward" "parent's NLL"
    for model in converted cpt merged sft cap dpo; do
        pipeline_row "$model" measured "parent's NLL" 2
    done
    echo
    header "worked sums" "bound on texts" "bound on answers" "tokens per forward" exact
    for model in converted cpt merged sft cap dpo; do
        pipeline_row "$model" sums/measured exact 3
    done
}

# pipeline_row MODEL DIR QUALITY PRECISION
pipeline_row() {
    printf '| `%s` |' "$1"
    of_pipelines "$2/$1.json" bound_on_texts 3
    of_pipelines "$2/$1.json" bound_on_answers 3
    of_pipelines "$2/$1.json" tokens_per_forward 2
    of_pipelines "$2/$1.json" "$3" "$4"
    echo
}

# Bounds on the same stories as `choices`, what they are above the parent's likelihood, and the parent's
# opinion of what is written.
table_parent() {
    local parent=assets/tinystories-656k model block threshold dir
    run_pipelines
    for dir in "${pipelines[@]}"; do
        mkdir -p "$dir/parent"
    done
    kept "$pipeline/parent/ar" bound_ar "$parent"
    header model "B 1" "B 4" "B 8" "B 32"
    printf '| parent | %.3f | | | |\n' "$(<"$pipeline/parent/ar")"
    for model in merged sft dpo; do
        printf '| `%s` |' "$model"
        for block in 1 4 8 32; do
            for dir in "${pipelines[@]}"; do
                kept "$dir/parent/$model-$block" bound "$dir/$model/final" "$block"
            done
            spread 3 "${pipelines[@]/%//parent/$model-$block}" | sed 's/ |$//'
            cat "${pipelines[@]/%//parent/$model-$block}" | awk -v ar="$(<"$pipeline/parent/ar")" \
                '{ sum += $1 } END { printf ", %+.3f |", sum / NR - ar }'
        done
        echo
    done
    echo
    header model threshold "tokens per forward" "parent's NLL"
    for model in merged dpo; do
        for threshold in 0.9 0.5 0.3; do
            for dir in "${pipelines[@]}"; do
                kept "$dir/parent/$model-text-$threshold" \
                    write_texts "$parent" "$dir/$model/final" "$threshold"
            done
            [[ $model$threshold != merged0.9 ]] || printf '| parent | - | 1.00 | %.2f |\n' \
                "$(head -n 1 "$pipeline/parent/$model-text-$threshold" | number "parent's NLL")"
            printf '| `%s` | %s |' "$model" "$threshold"
            of_pipelines "parent/$model-text-$threshold" tokens_per_forward 2
            of_pipelines "parent/$model-text-$threshold" "parent's NLL" 2
            echo
        done
    done
}

bound_ar() {
    llada eval nll "$1" --data <(head -n 100 assets/stories/valid.jsonl) --mode ar --json |
        number nll_per_token
}

write_texts() {
    llada eval text "$1" "$2" --thresholds "$3" --json --count 30 --max-new-tokens 128 \
        --data assets/stories/valid.jsonl
}

mkdir -p "$out"
converted
for table in "${tables[@]}"; do
    declare -F "table_$table" >/dev/null || {
        printf 'error: no table `%s`\n' "$table" >&2
        exit 2
    }
    "table_$table"
    echo
done
