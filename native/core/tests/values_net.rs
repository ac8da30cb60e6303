//! Net changes applied to a table equal the changes applied one by one.

mod values_support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use values_support::{Cell, Maker, relation, text};
use walcast_core::filter::View;
use walcast_core::index::{Kind, OldKind, Op};
use walcast_core::net::{Net, RowSet, net};

/// key -> (a, big); big is what TOAST may leave out.
type Table = BTreeMap<u8, (u8, u8)>;

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(u8, u8, u8),
    /// The last: big is left unchanged, and whether the old row is sent (REPLICA IDENTITY FULL) or its key.
    Update(u8, u8, Option<u8>, OldKind),
    Delete(u8),
    Move(u8, u8),
    Truncate(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..6_u8;
    let old = prop_oneof![Just(OldKind::None), Just(OldKind::Key), Just(OldKind::Row)];
    let step = prop_oneof![
        6 => (key.clone(), any::<u8>(), any::<u8>()).prop_map(|(k, a, b)| Step::Insert(k, a, b)),
        8 => (key.clone(), any::<u8>(), any::<Option<u8>>(), old).prop_map(|(k, a, b, o)| Step::Update(k, a, b, o)),
        5 => key.clone().prop_map(Step::Delete),
        1 => (key.clone(), key).prop_map(|(from, to)| Step::Move(from, to)),
        1 => any::<bool>().prop_map(Step::Truncate),
    ];
    proptest::collection::vec(step, 0..40)
}

fn cell(value: u8) -> Cell {
    Cell::Binary(vec![value; 1 + value as usize % 3])
}

fn row(key: u8, a: u8, big: u8) -> [Cell; 3] {
    [cell(key), cell(a), cell(big)]
}

/// Applies what is possible in this state, and records it as the stream would. True when a key changed after the last truncate.
fn run(steps: &[Step], table: &mut Table, maker: &mut Maker) -> bool {
    let mut moved = false;
    for step in steps {
        match *step {
            Step::Insert(k, a, big) if !table.contains_key(&k) => {
                table.insert(k, (a, big));
                maker.add(Op::Insert, Some(&row(k, a, big)), None);
            }
            Step::Update(k, a, big, old) if table.contains_key(&k) => {
                let before = table[&k];
                table.insert(k, (a, big.unwrap_or(before.1)));
                let new = [cell(k), cell(a), big.map_or(Cell::Unchanged, cell)];
                let key = [cell(k), Cell::Null, Cell::Null];
                let whole = row(k, before.0, before.1);
                let old: Option<(OldKind, &[Cell])> = match old {
                    OldKind::None => None,
                    OldKind::Key => Some((old, &key)),
                    OldKind::Row => Some((old, &whole)),
                };
                maker.add(Op::Update, Some(&new), old);
            }
            Step::Delete(k) if table.contains_key(&k) => {
                table.remove(&k);
                maker.add(Op::Delete, None, Some((OldKind::Key, &[cell(k), Cell::Null, Cell::Null])));
            }
            Step::Move(from, to) if table.contains_key(&from) && !table.contains_key(&to) => {
                let before = table.remove(&from).unwrap_or_default();
                table.insert(to, before);
                let key = [cell(from), Cell::Null, Cell::Null];
                let new = [cell(to), cell(before.0), Cell::Unchanged];
                maker.add(Op::Update, Some(&new), Some((OldKind::Key, &key)));
                moved = true;
            }
            Step::Truncate(cascade) => {
                table.clear();
                maker.truncate(cascade);
                moved = false;
            }
            _ => {}
        }
    }
    moved
}

fn cells(rows: &RowSet) -> Vec<Vec<Option<u8>>> {
    let read = |first: &u32| {
        let value = |column| {
            let value = rows.value(*first, column);
            (value.kind() == Kind::Binary).then(|| value.bytes(&rows.index.arena)[0])
        };
        (0..3).map(value).collect()
    };
    rows.rows.iter().map(read).collect()
}

fn apply(net: &Net, table: &mut Table) {
    if net.truncate {
        table.clear();
    }
    for row in net.deletes.iter().flat_map(cells) {
        assert_eq!(row[1..], [None, None], "deletes hold key columns only");
        table.remove(&row[0].expect("a key"));
    }
    for group in &net.upserts {
        for row in cells(&group.rows) {
            let key = row[0].expect("a key");
            let missing = group.unchanged.contains(&2);
            assert_eq!(missing, row[2].is_none());
            assert!(!(group.fresh && missing), "what was inserted here is whole");
            let big = row[2].or_else(|| table.get(&key).map(|before| before.1));
            table.insert(key, (row[1].expect("a value"), big.expect("unchanged columns have a row to keep them")));
        }
    }
}

fn collapsed(maker: Maker) -> Net {
    net(&View::new(maker.done()), 0, &[0])
}

fn maker() -> Maker {
    Maker::new(relation(&[("k", 25, -1, true), ("a", 25, -1, false), ("big", 25, -1, false)]))
}

proptest! {
    #[test]
    fn net_changes_reach_the_state_that_the_changes_reach(
        start in proptest::collection::btree_map(0..6_u8, any::<(u8, u8)>(), 0..6),
        steps in steps(),
    ) {
        let (mut expected, mut maker) = (start.clone(), maker());
        let moved = run(&steps, &mut expected, &mut maker);
        let net = collapsed(maker);
        prop_assert_eq!(net.replay, moved);
        if moved {
            prop_assert!(net.deletes.is_none() && net.upserts.is_empty());
            return Ok(());
        }
        let mut table = start.clone();
        apply(&net, &mut table);
        prop_assert_eq!(&table, &expected);
        // Redelivered to a copy that has them already, they change nothing.
        apply(&net, &mut table);
        prop_assert_eq!(&table, &expected);
        // Fresh rows were not there before, unless the table was emptied.
        for group in net.upserts.iter().filter(|group| group.fresh && !net.truncate) {
            for row in cells(&group.rows) {
                prop_assert!(!start.contains_key(&row[0].expect("a key")));
            }
        }
    }
}

#[test]
fn inserts_alone_are_one_fresh_group_in_their_order() {
    let mut maker = maker();
    for key in [3, 1, 2] {
        maker.add(Op::Insert, Some(&row(key, key, key)), None);
    }
    let net = collapsed(maker);
    assert!(net.deletes.is_none() && !net.truncate && !net.replay);
    assert_eq!(net.upserts.len(), 1);
    assert!(net.upserts[0].fresh && net.upserts[0].unchanged.is_empty());
    assert_eq!(cells(&net.upserts[0].rows).iter().map(|row| row[0]).collect::<Vec<_>>(), [Some(3), Some(1), Some(2)]);
}

#[test]
fn an_update_keeps_the_toasted_value_that_an_earlier_change_brought() {
    let mut maker = maker();
    maker.add(Op::Update, Some(&row(1, 2, 3)), None);
    maker.add(Op::Update, Some(&[cell(1), cell(9), Cell::Unchanged]), None);
    maker.add(Op::Update, Some(&[cell(2), cell(9), Cell::Unchanged]), None);
    let net = collapsed(maker);
    let groups: Vec<_> = net.upserts.iter().map(|group| (group.unchanged.clone(), cells(&group.rows))).collect();
    assert_eq!(groups[0], (vec![], vec![vec![Some(1), Some(9), Some(3)]]));
    assert_eq!(groups[1], (vec![2], vec![vec![Some(2), Some(9), None]]));
}

#[test]
fn deletes_before_a_truncate_are_gone_and_its_options_are_kept() {
    let mut maker = maker();
    maker.add(Op::Delete, None, Some((OldKind::Key, &[cell(1), Cell::Null, Cell::Null])));
    maker.truncate(true);
    maker.truncate(false);
    let net = collapsed(maker);
    assert!(net.truncate && net.cascade && !net.restart_identity && net.deletes.is_none() && net.upserts.is_empty());
}

#[test]
fn a_relation_without_a_key_is_replayed_unless_all_its_rows_are_new() {
    for op in [Op::Insert, Op::Read] {
        let mut new = maker();
        new.add(op, Some(&row(1, 2, 3)), None);
        let net = net(&View::new(new.done()), 0, &[]);
        assert!(!net.replay && net.upserts[0].fresh);
    }
    let mut changes = maker();
    changes.add(Op::Insert, Some(&row(1, 2, 3)), None);
    changes.add(Op::Delete, None, Some((OldKind::Row, &row(1, 2, 3))));
    assert!(net(&View::new(changes.done()), 0, &[]).replay);
}

#[test]
fn keys_that_are_equal_but_not_the_same_bytes_are_a_change_of_key() {
    let mut maker = maker();
    let old = [text("1.0"), Cell::Null, Cell::Null];
    maker.add(Op::Update, Some(&[text("1.00"), cell(1), cell(1)]), Some((OldKind::Key, &old)));
    assert!(collapsed(maker).replay);
}
