//! Moving rows and columns, and the embedding.

use llada_tensor::{
    Gradient, Precision, Tensor, Weight, add_assign, embed, embed_backward, gather_rows,
    join_columns, scatter_add_rows, split_columns,
};

fn counting(shape: [usize; 2]) -> Tensor {
    Tensor::from_f32(&shape, (0..shape[0] * shape[1]).map(|i| i as f32).collect())
}

#[test]
fn columns_split_and_join_again() {
    let x = counting([3, 6]);
    let [a, b, c] = split_columns(&x, [1, 3, 2]);
    assert_eq!(a.f32s(), [0.0, 6.0, 12.0]);
    assert_eq!(b.row(1), [7.0, 8.0, 9.0]);
    assert_eq!(c.row(2), [16.0, 17.0]);
    assert_eq!(join_columns(&[&a, &b, &c]), x);
}

#[test]
fn a_part_may_have_no_columns_and_a_matrix_no_rows() {
    let [empty, all] = split_columns(&counting([2, 2]), [0, 2]);
    assert_eq!((empty.shape(), all.shape()), (&[2, 0][..], &[2, 2][..]));
    let [left, right] = split_columns(&counting([0, 5]), [2, 3]);
    assert_eq!(join_columns(&[&left, &right]).shape(), [0, 5]);
}

#[test]
fn gathered_rows_keep_the_given_order() {
    let gathered = gather_rows(&counting([3, 2]), &[2, 0, 2]);
    assert_eq!(gathered.shape(), [3, 2]);
    assert_eq!(gathered.f32s(), [4.0, 5.0, 0.0, 1.0, 4.0, 5.0]);
}

#[test]
fn scattered_rows_add_up_where_they_repeat() {
    let mut x = counting([3, 2]);
    scatter_add_rows(&mut x, &[2, 0, 2], &counting([3, 2]));
    assert_eq!(x.f32s(), [2.0, 4.0, 2.0, 3.0, 8.0, 11.0]);
}

#[test]
fn add_assign_adds_elements() {
    let mut x = counting([2, 2]);
    add_assign(&mut x, &counting([2, 2]));
    assert_eq!(x.f32s(), [0.0, 2.0, 4.0, 6.0]);
}

#[test]
fn embedding_reads_f32_and_bf16_tables() {
    let table = counting([4, 3]);
    for table in [table.clone(), table.to_bf16()] {
        let rows = embed(&[3, 1], &Weight::new(table, Precision::F32));
        assert_eq!(rows.shape(), [2, 3]);
        assert_eq!(rows.f32s(), [9.0, 10.0, 11.0, 3.0, 4.0, 5.0]);
    }
}

#[test]
fn embedding_gradient_adds_up_repeated_ids() {
    let mut dtable = Gradient::Values(Tensor::zeros(&[3, 2]));
    embed_backward(&[1, 1, 0], &counting([3, 2]), &mut dtable);
    assert_eq!(dtable.tensors()[0].f32s(), [4.0, 5.0, 2.0, 4.0, 0.0, 0.0]);
}
