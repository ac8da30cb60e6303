//! COPY in and out: what a snapshot read is what a copy gets.

mod values_support;

use proptest::prelude::*;
use values_support::{Cell, Maker, relation, text};
use walcast_core::copy::{Mixed, copy};
use walcast_core::filter::View;
use walcast_core::index::{Kind, Op, Relation};
use walcast_core::net::{Format, RowSet, net};
use walcast_core::snapshot::{SIGNATURE, index_rows};

fn table() -> Relation {
    relation(&[("k", 25, -1, true), ("a", 25, -1, false)])
}

fn all_rows(view: &View) -> RowSet {
    let mut net = net(view, 0, &[0]);
    net.upserts.remove(0).rows
}

fn joined(rows: &RowSet, columns: &[usize]) -> Vec<u8> {
    copy(rows, columns).expect("one format").concat()
}

fn binary(rows: &[Vec<Option<Vec<u8>>>]) -> Vec<u8> {
    let mut out = Vec::new();
    for row in rows {
        out.extend((row.len() as i16).to_be_bytes());
        for value in row {
            match value {
                None => out.extend((-1_i32).to_be_bytes()),
                Some(value) => {
                    out.extend((value.len() as i32).to_be_bytes());
                    out.extend(value);
                }
            }
        }
    }
    out
}

fn framed(rows: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[0; 8][..], rows, &[0xff, 0xff]].concat()
}

fn rows() -> impl Strategy<Value = Vec<Vec<Option<Vec<u8>>>>> {
    let byte = prop_oneof![Just(b'\\'), Just(b'\t'), Just(b'\n'), Just(b'N'), Just(8), Just(b'.'), any::<u8>()];
    let value = proptest::option::weighted(0.8, proptest::collection::vec(byte, 0..8));
    proptest::collection::vec(proptest::collection::vec(value, 2), 1..20)
}

proptest! {
    #[test]
    fn binary_rows_pass_through_and_can_be_gathered(rows in rows(), bare in any::<bool>()) {
        let payload = if bare { binary(&rows) } else { framed(&binary(&rows)) };
        let view = index_rows(table(), payload, Kind::Binary, 5).expect("a payload");
        let set = all_rows(&view);
        prop_assert_eq!(set.rows.len(), rows.len());
        prop_assert_eq!(joined(&set, &[0, 1]), framed(&binary(&rows)));
        let swapped: Vec<_> = rows.iter().map(|row| vec![row[1].clone(), row[0].clone(), row[1].clone()]).collect();
        prop_assert_eq!(joined(&set, &[1, 0, 1]), framed(&binary(&swapped)));
    }

    #[test]
    fn text_rows_come_back_however_they_are_gathered(rows in rows()) {
        let mut maker = Maker::new(table());
        for row in &rows {
            let cells: Vec<Cell> = row.iter().map(|value| value.clone().map_or(Cell::Null, Cell::Text)).collect();
            maker.add(Op::Insert, Some(&cells), None);
        }
        let set = all_rows(&View::new(maker.done()));
        prop_assume!(set.format() == Format::Text);
        let payload = joined(&set, &[0, 1]);
        let view = index_rows(table(), payload.clone(), Kind::Text, 5).expect("a payload");
        let again = all_rows(&view);
        prop_assert_eq!(joined(&again, &[0, 1]), payload.clone());
        prop_assert_eq!(joined(&again, &[1, 0]), joined(&set, &[1, 0]));
        for (row, first) in rows.iter().zip(&again.rows) {
            for (column, value) in row.iter().enumerate() {
                let found = again.value(*first, column);
                let found = (found.kind() == Kind::Text).then(|| found.bytes(&again.index.arena));
                prop_assert_eq!(found, value.as_deref());
            }
        }
    }

    #[test]
    fn payloads_that_are_cut_or_changed_are_an_error_and_nothing_worse(
        rows in rows(), cut in any::<prop::sample::Index>(), byte in any::<u8>(), format in any::<bool>(),
    ) {
        let kind = if format { Kind::Binary } else { Kind::Text };
        let mut payload = framed(&binary(&rows));
        let at = cut.index(payload.len());
        payload[at] = byte;
        let _ = index_rows(table(), payload.clone(), kind, 5);
        payload.truncate(at);
        let _ = index_rows(table(), payload, kind, 5);
    }
}

#[test]
fn malformed_payloads_are_refused_with_their_place() {
    let row = binary(&[vec![Some(b"x".to_vec()), None]]);
    let refused = |payload: Vec<u8>, kind| index_rows(table(), payload, kind, 5).err().map(|fault| fault.offset);
    assert_eq!(refused(row[..row.len() - 1].to_vec(), Kind::Binary), Some(7));
    assert_eq!(refused(vec![0, 3], Kind::Binary), Some(0));
    assert_eq!(refused([&[0xff, 0xff][..], &row].concat(), Kind::Binary), Some(0));
    assert_eq!(refused(b"a\tb\n\\.\na\tb\n".to_vec(), Kind::Text), Some(4));
    assert_eq!(refused(b"a\n".to_vec(), Kind::Text), Some(1));
    assert_eq!(refused(b"a\tb\tc\n".to_vec(), Kind::Text), Some(3));
    assert_eq!(refused(b"a\tb".to_vec(), Kind::Text), Some(3));
    assert_eq!(refused(b"a\tb\n\\.\n".to_vec(), Kind::Text), None);
}

#[test]
fn big_row_sets_come_in_several_buffers() {
    let mut maker = Maker::new(table());
    let long = "x".repeat(1000);
    for _ in 0..3000 {
        maker.add(Op::Insert, Some(&[text(&long), text(&long)]), None);
    }
    let set = all_rows(&View::new(maker.done()));
    let buffers = copy(&set, &[0, 1]).expect("text");
    assert!(buffers.len() > 5 && buffers.iter().all(|buffer| buffer.len() < 1 << 20));
}

#[test]
fn rows_with_binary_and_text_values_have_no_copy_form() {
    let mut maker = Maker::new(table());
    maker.add(Op::Insert, Some(&[text("a"), Cell::Binary(vec![1])]), None);
    let set = all_rows(&View::new(maker.done()));
    assert_eq!(set.format(), Format::Mixed);
    assert_eq!(copy(&set, &[0]).err(), Some(Mixed));
}
