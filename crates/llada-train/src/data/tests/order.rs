use crate::data::{Cursor, Drawn, Mix};

fn documents(drawn: &[Drawn]) -> Vec<usize> {
    drawn.iter().map(|drawn| drawn.document).collect()
}

#[test]
fn every_epoch_is_another_order_of_all_documents() {
    let drawn: Vec<_> = Mix::new(&[(20, 1.0)], 7, &[]).take(60).collect();
    for (epoch, pass) in (0..).zip(drawn.chunks(20)) {
        assert!(pass.iter().all(|drawn| drawn.epoch == epoch));
        let mut documents = documents(pass);
        documents.sort_unstable();
        assert_eq!(documents, (0..20).collect::<Vec<_>>());
    }
    let order = |epoch: usize| documents(&drawn[20 * epoch..20 * (epoch + 1)]);
    assert!(order(0) != order(1) && order(1) != order(2));
    let other_seed: Vec<_> = Mix::new(&[(20, 1.0)], 8, &[]).take(20).collect();
    assert_ne!(order(0), documents(&other_seed));
}

#[test]
fn sources_have_their_shares_in_every_stretch_and_their_own_epochs() {
    let drawn: Vec<_> = Mix::new(&[(100, 3.0), (4, 1.0)], 7, &[]).take(80).collect();
    for stretch in drawn.chunks(8) {
        let small = stretch.iter().filter(|drawn| drawn.document >= 100);
        assert_eq!(small.count(), 2, "a quarter of the documents");
    }
    let small: Vec<_> = drawn.iter().filter(|d| d.document >= 100).collect();
    assert_eq!(small.last().map(|drawn| drawn.epoch), Some(4));
    let large = drawn.iter().filter(|d| d.document < 100);
    assert!(large.clone().all(|drawn| drawn.epoch == 0));
    let mut seen = documents(&large.copied().collect::<Vec<_>>());
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 60, "no document twice within a pass");
}

#[test]
fn a_sequence_goes_on_where_its_cursors_stood() {
    let sources = [(5, 1.0), (3, 0.7)];
    let mut whole = Mix::new(&sources, 7, &[]);
    for used in 0..20 {
        let rest = Mix::new(&sources, 7, &whole.cursors()).take(20 - used);
        assert!(whole.clone().take(20 - used).eq(rest), "after {used}");
        whole.next();
    }
    let cursor = Cursor {
        epoch: 0,
        used: 5,
        of: 5,
    };
    let next = Mix::new(&[(5, 1.0)], 7, &[cursor]).next();
    assert_eq!(next.map(|drawn| drawn.epoch), Some(1));
}
