//! The whole pipeline as a script, in its quick form.

use std::process::Command;

use serde_json::Value;

use crate::root;

const TESTBEDS: [(&str, &str); 2] = [("stories", ""), ("sums", "sums/")];

fn summary_of_a_run(out: &std::path::Path) -> Value {
    let output = Command::new("bash")
        .arg(root().join("recipes/tiny-cpu.sh"))
        .args(["--quick", "--out"])
        .arg(out)
        .env("LLADA", env!("CARGO_BIN_EXE_llada"))
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    serde_json::from_str(&std::fs::read_to_string(out.join("summary.json")).unwrap()).unwrap()
}

#[test]
fn the_quick_pipeline_leaves_every_stage_and_a_summary_and_repeats_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("tiny");
    let summary = summary_of_a_run(&out);
    assert_eq!(summary["size"], "quick");
    for (testbed, under) in TESTBEDS {
        for stage in ["cpt", "merged", "sft", "cap", "dpo"] {
            let model = out.join(format!("{under}{stage}/final/model.safetensors"));
            assert!(model.exists(), "{}", model.display());
            let row = &summary[testbed]["stages"][stage];
            let (before, after) = (row["before"].as_f64(), row["after"].as_f64());
            let is_better = match row["better"].as_str().unwrap() {
                "lower" => after < before,
                _ => after > before,
            };
            assert_eq!(row["improved"], is_better, "{testbed} {stage}: {row}");
        }
        // A model that has never seen MASK learns in a few steps what it is.
        let cpt = &summary[testbed]["stages"]["cpt"];
        assert_eq!(cpt["improved"], true, "{testbed}: {cpt}");
    }
    let trained = out.join("cpt/metrics.jsonl");
    let time = || std::fs::metadata(&trained).unwrap().modified().unwrap();
    let before = time();
    assert_eq!(summary_of_a_run(&out), summary);
    assert_eq!(time(), before, "the second run trained again");
}
