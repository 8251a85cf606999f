//! Parameter counts of the published models (`model.md` section 10).

use llada_model::Config;

fn counts(text: &str) -> llada_model::ParameterCounts {
    Config::from_json(text)
        .expect("a published config")
        .parameter_counts()
}

#[test]
fn mini_and_flash_have_exactly_their_published_parameters() {
    let mini = counts(include_str!("../testdata/hub/llada2_mini.json"));
    assert_eq!(mini.total, 16_255_643_392);
    let flash = counts(include_str!("../testdata/hub/dfactory_flash.json"));
    assert_eq!(flash.total, 102_889_705_216);
}

#[test]
fn active_parameters_are_those_of_the_table() {
    let millions = |count: u64| (count + 500_000) / 1_000_000;
    let table = [
        (
            include_str!("../testdata/hub/llada2_mini.json"),
            [1433, 1111, 789],
        ),
        (
            include_str!("../testdata/hub/dfactory_flash.json"),
            [6152, 5508, 4865],
        ),
    ];
    for (text, expected) in table {
        let counts = counts(text);
        let without_input = counts.active - counts.embedding;
        let found = [counts.active, without_input, without_input - counts.head].map(millions);
        assert_eq!(found, expected);
    }
}

#[test]
fn a_tied_model_counts_its_embedding_once() {
    let counts = counts(include_str!("../../../assets/tinystories-656k/config.json"));
    assert_eq!((counts.total, counts.active), (656_000, 656_000));
    assert_eq!((counts.embedding, counts.head), (262_144, 0));
}
