//! Arrow columns from binary and from text values; JSON lines; views.

mod values_support;

use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
    UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use values_support::{Cell, Maker, relation, text};
use walcast_core::arrow::{Arrays, Choices, Failure, Numeric, Temporal, changes};
use walcast_core::filter::View;
use walcast_core::index::{OldKind, Op};
use walcast_core::json;
use walcast_core::types::Catalog;

const NARROW: Choices = Choices { numeric: Numeric::Decimal, temporal: Temporal::Native, arrays: Arrays::List };

fn one_column(oid: u32, typmod: i32, cells: &[Cell], choices: Choices) -> Result<RecordBatch, Failure> {
    let mut maker = Maker::new(relation(&[("v", oid, typmod, false)]));
    for cell in cells {
        maker.add(Op::Insert, Some(std::slice::from_ref(cell)), None);
    }
    let mut table = changes(&View::new(maker.done()), 0, &Catalog::default(), choices)?;
    Ok(table.batches.remove(0))
}

fn refused(oid: u32, typmod: i32, cell: Cell) -> bool {
    matches!(one_column(oid, typmod, &[cell], NARROW), Err(Failure::Range { .. }))
}

fn binary(bytes: &[u8]) -> Cell {
    Cell::Binary(bytes.to_vec())
}

#[test]
fn changes_say_what_happened_before_their_columns() {
    let mut maker = Maker::new(relation(&[("k", 23, -1, true), ("big", 25, -1, false)]));
    let key = |n: i32| binary(&n.to_be_bytes());
    maker.add(Op::Insert, Some(&[key(1), text("x")]), None);
    maker.add(Op::Update, Some(&[key(2), Cell::Unchanged]), Some((OldKind::Key, &[key(1), Cell::Null])));
    maker.add(Op::Delete, None, Some((OldKind::Key, &[key(2), Cell::Null])));
    maker.truncate(false);
    let table = changes(&View::new(maker.done()), 0, &Catalog::default(), Choices::default()).expect("a table");
    let names: Vec<&str> = table.schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["_op", "_commit_lsn", "_ordinal", "_xid", "_commit_time", "_unchanged", "_old", "k", "big"]);
    assert_eq!(table.schema.field(7).metadata()["pg.type_oid"], "23");
    let batch = &table.batches[0];
    assert_eq!(batch.column(0).as_string::<i32>().iter().flatten().collect::<String>(), "IUDT");
    assert_eq!(batch.column(1).as_primitive::<UInt64Type>().value(0), 0x16_B374_D848);
    let unchanged = batch.column(5).as_list::<i32>();
    assert_eq!(unchanged.value(1).as_primitive::<Int32Type>().values(), &[1]);
    assert_eq!(unchanged.value_length(0), 0);
    let old = batch.column(6).as_struct();
    assert_eq!((0..4).map(|row| old.is_valid(row)).collect::<Vec<_>>(), [false, true, true, false]);
    assert_eq!(old.column(0).as_primitive::<Int32Type>().value(2), 2);
    let keys = batch.column(7).as_primitive::<Int32Type>();
    assert_eq!(keys.iter().collect::<Vec<_>>(), [Some(1), Some(2), None, None]);
    assert!(batch.column(8).is_null(1));
}

#[test]
fn text_and_binary_values_become_the_same_columns() {
    let column =
        |oid, typmod, cells: &[Cell]| one_column(oid, typmod, cells, NARROW).expect("a column").column(7).clone();
    let numeric: Vec<u8> = [2_u16, 0, 0x4000, 2, 12, 3400].iter().flat_map(|word| word.to_be_bytes()).collect();
    let decimals = column(1700, (10 << 16 | 2) + 4, &[binary(&numeric), text("-12.34"), text("7"), Cell::Null]);
    let decimals = decimals.as_primitive::<Decimal128Type>();
    assert_eq!(decimals.iter().collect::<Vec<_>>(), [Some(-1234), Some(-1234), Some(700), None]);

    let dates = column(1082, -1, &[binary(&8766_i32.to_be_bytes()), text("2024-01-01"), text("0001-01-01 BC")]);
    assert_eq!(dates.as_primitive::<Date32Type>().values(), &[19_723, 19_723, -719_528]);

    let times = column(1184, -1, &[binary(&1_500_000_i64.to_be_bytes()), text("2000-01-01 00:00:01.5+00")]);
    assert_eq!(times.as_primitive::<TimestampMicrosecondType>().values(), &[946_684_801_500_000; 2]);

    let clocks = column(1083, -1, &[binary(&1_i64.to_be_bytes()), text("00:00:00.000001")]);
    assert_eq!(clocks.as_primitive::<Time64MicrosecondType>().values(), &[1, 1]);

    let bytes = column(17, -1, &[binary(&[0, 255]), text("\\x00ff")]);
    assert_eq!(bytes.as_binary::<i32>().iter().flatten().collect::<Vec<_>>(), [[0, 255], [0, 255]]);

    let floats = column(701, -1, &[binary(&f64::NAN.to_be_bytes()), text("NaN"), text("1e+300")]);
    assert!(floats.as_primitive::<Float64Type>().value(1).is_nan());

    let bools = column(16, -1, &[binary(&[1]), text("t"), text("f"), Cell::Null]);
    assert_eq!(bools.as_boolean().iter().collect::<Vec<_>>(), [Some(true), Some(true), Some(false), None]);

    let items: Vec<u8> = [1_i32, 1, 20, 2, 1, 8, 0, 7, -1].iter().flat_map(|word| word.to_be_bytes()).collect();
    let lists = column(1016, -1, &[binary(&items), text("{7,NULL}"), text("{}")]);
    let lists = lists.as_list::<i32>();
    for row in 0..2 {
        assert_eq!(lists.value(row).as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(7), None]);
    }
    assert_eq!(lists.value_length(2), 0);
    let quoted = column(1009, -1, &[text("{a,\"b \\\"c\\\\\",\"NULL\",NULL,\"\"}")]);
    let quoted = quoted.as_list::<i32>().value(0);
    assert_eq!(
        quoted.as_string::<i32>().iter().collect::<Vec<_>>(),
        [Some("a"), Some("b \"c\\"), Some("NULL"), None, Some("")]
    );
}

#[test]
fn values_outside_of_what_a_choice_allows_are_refused() {
    let typmod = (4 << 16 | 2) + 4;
    for value in ["NaN", "Infinity", "100", "1.234"] {
        assert!(refused(1700, typmod, text(value)), "{value}");
    }
    let nan: Vec<u8> = [0_u16, 0, 0xC000, 0].iter().flat_map(|word| word.to_be_bytes()).collect();
    assert!(refused(1700, typmod, Cell::Binary(nan)));
    assert!(refused(1082, -1, text("infinity")) && refused(1082, -1, binary(&i32::MIN.to_be_bytes())));
    assert!(refused(1184, -1, text("-infinity")) && refused(1114, -1, binary(&i64::MAX.to_be_bytes())));
    assert!(refused(1083, -1, text("24:00:00")));
    assert!(refused(1007, -1, text("{{1,2}}")) && refused(1007, -1, text("[0:1]={1,2}")));
}

#[test]
fn values_that_are_not_their_types_are_faults_that_name_the_column() {
    for (oid, cell) in [
        (23, binary(&[1])),
        (23, text("x")),
        (25, binary(&[0xff])),
        (16, text("yes")),
        (17, text("ab")),
        (1082, text("2024-13-01")),
        (1007, text("{1,}")),
        (2205, binary(&[0, 0, 0, 1])),
    ] {
        match one_column(oid, -1, &[cell], NARROW) {
            Err(Failure::Fault(fault)) => assert!(fault.message.starts_with("column v: ")),
            other => panic!("{oid}: {other:?}"),
        }
    }
}

#[test]
fn a_decimal_is_as_wide_as_its_numeric_and_else_text() {
    let field = |typmod| {
        let batch = one_column(1700, typmod, &[Cell::Null], NARROW).expect("a column");
        batch.schema().field(7).data_type().to_string()
    };
    assert_eq!(field((10 << 16 | 2) + 4), "Decimal128(10, 2)");
    assert_eq!(field((2 << 16 | (-3_i32 & 0x7ff)) + 4), "Decimal128(5, 0)");
    assert_eq!(field((3 << 16 | 5) + 4), "Decimal128(5, 5)");
    assert_eq!(field((39 << 16 | 2) + 4), "Utf8");
    assert_eq!(field(-1), "Utf8");
}

#[test]
fn a_change_is_one_line_of_json() {
    let columns = [("k", 23, -1, true), ("f", 701, -1, false), ("j", 3802, -1, false), ("t", 25, -1, false)];
    let mut maker = Maker::new(relation(&columns));
    let key = binary(&1_i32.to_be_bytes());
    let nan = binary(&f64::NAN.to_be_bytes());
    maker.add(Op::Insert, Some(&[key.clone(), nan, text("{\"a\":\n1}"), text("q\"\n\u{1}ä")]), None);
    let old = [key.clone(), Cell::Null, Cell::Null, Cell::Null];
    let new = [binary(&2_i32.to_be_bytes()), text("1e+15"), Cell::Null, Cell::Unchanged];
    maker.add(Op::Update, Some(&new), Some((OldKind::Key, &old)));
    maker.truncate(true);
    maker.message("p", &[0, 255]);
    let lines = json::lines(&View::new(maker.done()), &Catalog::default(), &[vec![0]]).expect("lines");
    let place =
        |n| format!("\"lsn\":\"16/B374D848\",\"ordinal\":{n},\"xid\":745,\"ts\":\"2000-01-01T00:00:00.000000Z\"");
    let expected = [
        format!(
            "{{\"op\":\"insert\",\"schema\":\"s\",\"table\":\"t\",{},\"key\":{{\"k\":1}},\"new\":{{\"k\":1,\"f\":\"NaN\",\
             \"j\":{{\"a\": 1}},\"t\":\"q\\\"\\n\\u0001ä\"}}}}",
            place(1)
        ),
        format!(
            "{{\"op\":\"update\",\"schema\":\"s\",\"table\":\"t\",{},\"key\":{{\"k\":1}},\"new\":{{\"k\":2,\"f\":1e+15,\
             \"j\":null}},\"unchanged\":[\"t\"]}}",
            place(2)
        ),
        format!(
            "{{\"op\":\"truncate\",\"schema\":\"s\",\"table\":\"t\",{},\"cascade\":true,\"restart_identity\":false}}",
            place(3)
        ),
        format!("{{\"op\":\"message\",{},\"prefix\":\"p\",\"content\":\"AP8=\",\"transactional\":true}}", place(4)),
    ];
    assert_eq!(String::from_utf8(lines).expect("UTF-8").lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_view_leaves_out_what_a_copy_already_has() {
    let mut maker = Maker::new(relation(&[("k", 25, -1, true)]));
    maker.add(Op::Insert, Some(&[text("a")]), None);
    let mut second = maker.index.transactions[0].clone();
    second.commit_lsn += 100;
    maker.index.transactions.push(second);
    maker.add(Op::Insert, Some(&[text("b")]), None);
    maker.message("p", b"");
    for entry in &mut maker.index.entries[1..] {
        entry.transaction = 1;
    }
    let first = maker.index.transactions[0].commit_lsn;
    let view = View::new(maker.done());
    let none = HashMap::new();
    let left = view.select(first, &none).expect("the second");
    assert_eq!((left.len(), left.transactions().count(), left.of(0)), (2, 1, &[1][..]));
    assert!(view.select(first + 100, &none).is_none());
    let dropped = view.select(0, &HashMap::from([(1, first + 101)])).expect("the message");
    assert_eq!((dropped.len(), dropped.counts(0)), (1, [0; 5]));
    assert_eq!(view.without(&[0, 2]).of(0), [1]);
    assert_eq!(left.without(&[1]).of(0), [1]);
    assert_eq!((left.without(&[0, 1]).len(), left.without(&[0, 1]).transactions().count()), (0, 1));
    assert_eq!(view.select(0, &HashMap::from([(1, first + 100)])).expect("the second").of(0), [1]);
    assert!(left.select(0, &HashMap::from([(1, u64::MAX)])).expect("the message").of(0).is_empty());
}
