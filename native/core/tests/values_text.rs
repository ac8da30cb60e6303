//! Canonical text of binary values, and hostile bytes.

use proptest::prelude::*;
use walcast_core::types::{Catalog, GivenType, TypeKind};

fn given(oid: u32, name: &str, kind: TypeKind, element: u32, fields: &[u32]) -> GivenType {
    GivenType { oid, name: name.into(), kind, element, fields: fields.to_vec(), delimiter: b',' }
}

/// 90001 enum, 90002 its array, 90003 domain over numeric, 90004 composite, 90005 its array, 90006 range of text, 90007 its
/// multirange, 90008 hstore, 90009 vector, 90010 unknown, 90011 a domain over itself.
fn catalog() -> Catalog {
    Catalog::new([
        given(90_001, "mood", TypeKind::Enum, 0, &[]),
        given(90_002, "_mood", TypeKind::Array, 90_001, &[]),
        given(90_003, "price", TypeKind::Domain, 1700, &[]),
        given(90_004, "pair", TypeKind::Composite, 0, &[23, 90_005, 90_003]),
        given(90_005, "_pair", TypeKind::Array, 90_004, &[]),
        given(90_006, "textrange", TypeKind::Range, 25, &[]),
        given(90_007, "textmultirange", TypeKind::Multirange, 90_006, &[]),
        given(90_008, "hstore", TypeKind::Base, 0, &[]),
        given(90_009, "vector", TypeKind::Base, 0, &[]),
        given(90_010, "geometry", TypeKind::Base, 0, &[]),
        given(90_011, "loop", TypeKind::Domain, 90_011, &[]),
    ])
}

fn printed(oid: u32, value: &[u8]) -> Option<String> {
    let catalog = catalog();
    let mut out = Vec::new();
    catalog.shape(oid).write(&catalog, value, &mut out).ok()?;
    String::from_utf8(out).ok()
}

fn float(value: f64) -> Option<String> {
    printed(701, &value.to_be_bytes())
}

#[test]
fn floats_are_the_shortest_that_lie_between_the_midpoints() {
    for (value, text) in [
        (0.1, "0.1"),
        (-0.0, "-0"),
        (1e15, "1e+15"),
        (1e14, "100000000000000"),
        (1.5e-5, "1.5e-05"),
        (0.0001, "0.0001"),
        (f64::NAN, "NaN"),
        (f64::NEG_INFINITY, "-Infinity"),
        (5e-324, "5e-324"),
        (9_007_199_254_740_993.0, "9.007199254740992e+15"),
        // Of two equally near, the even one.
        (2f64.powi(50) + 0.25, "1.1258999068426242e+15"),
        // Above a power of two there is more room than below.
        (2f64.powi(122), "5.316911983139664e+36"),
    ] {
        assert_eq!(float(value).as_deref(), Some(text));
    }
    assert_eq!(printed(700, &(213_056.0_f32 + 0.125).to_be_bytes()).as_deref(), Some("213056.12"));
    assert_eq!(printed(700, &1e6_f32.to_be_bytes()).as_deref(), Some("1e+06"));
}

#[test]
fn numbers_times_and_addresses_are_printed_as_postgresql_does() {
    let numeric = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    let interval = |micros: i64, days: i32, months: i32| {
        [&micros.to_be_bytes()[..], &days.to_be_bytes(), &months.to_be_bytes()].concat()
    };
    let cases: Vec<(u32, Vec<u8>, &str)> = vec![
        (1700, numeric(&[2, 0, 0x4000, 3, 12, 3450]), "-12.345"),
        (1700, numeric(&[1, 0xffff, 0, 6, 12]), "0.001200"),
        (1700, numeric(&[1, 2, 0, 0, 1]), "100000000"),
        (1700, numeric(&[0, 0, 0, 2]), "0.00"),
        (1700, numeric(&[0, 0, 0xC000, 0]), "NaN"),
        (1700, numeric(&[0, 0, 0xF000, 0]), "-Infinity"),
        (790, i64::MIN.to_be_bytes().to_vec(), "-$92,233,720,368,547,758.08"),
        (18, vec![0xe4], "\\344"),
        (1082, (-730_119_i32).to_be_bytes().to_vec(), "0001-01-01"),
        (1082, i32::MAX.to_be_bytes().to_vec(), "infinity"),
        (1114, (-63_082_281_600_000_000_i64 - 1).to_be_bytes().to_vec(), "0001-12-31 23:59:59.999999 BC"),
        (1184, 500_000_i64.to_be_bytes().to_vec(), "2000-01-01 00:00:00.5+00"),
        (1083, 86_400_000_000_i64.to_be_bytes().to_vec(), "24:00:00"),
        (1186, interval(-1, 0, 0), "-00:00:00.000001"),
        (1186, interval(0, 0, -13), "-1 years -1 mons"),
        (1186, interval(1_000_000, -1, 0), "-1 days +00:00:01"),
        (869, vec![2, 24, 0, 4, 10, 0, 0, 1], "10.0.0.1/24"),
        (650, vec![3, 128, 1, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 1, 2, 3, 4], "::ffff:1.2.3.4/128"),
        (3220, 0x16_B374_D848_u64.to_be_bytes().to_vec(), "16/B374D848"),
        (1560, vec![0, 0, 0, 3, 0b1010_0000], "101"),
        (3802, b"\x01{\"a\": 1}".to_vec(), "{\"a\": 1}"),
    ];
    for (oid, value, text) in cases {
        assert_eq!(printed(oid, &value).as_deref(), Some(text));
    }
}

#[test]
fn arrays_quote_what_could_be_read_as_something_else() {
    let item = |text: &str| [&(text.len() as i32).to_be_bytes()[..], text.as_bytes()].concat();
    let mut value = [1_i32, 0, 25, 4, 0].iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    for piece in [item("a"), item("null"), item(""), (-1_i32).to_be_bytes().to_vec()] {
        value.extend(piece);
    }
    assert_eq!(printed(1009, &value).as_deref(), Some("[0:3]={a,\"null\",\"\",NULL}"));
}

#[test]
fn what_cannot_be_read_is_known_before_it_comes() {
    let catalog = catalog();
    for oid in [16, 1700, 1007, 3904, 4451, 90_001, 90_002, 90_003, 90_006, 90_007, 90_008, 90_009] {
        assert!(catalog.has_binary(oid), "{oid}");
    }
    // reg*, aclitem, unknown types, arrays of them, and types without end.
    for oid in [2205, 1033, 1034, 2210, 90_010, 90_011, 90_004, 424_242] {
        assert!(!catalog.has_binary(oid), "{oid}");
    }
}

fn every_oid() -> impl Strategy<Value = u32> {
    let known: Vec<u32> = (1..7000).filter(|oid| catalog().has_binary(*oid)).chain(90_001..90_012).collect();
    proptest::sample::select(known)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn hostile_bytes_are_an_error_and_nothing_worse(
        oid in every_oid(),
        value in proptest::collection::vec(prop_oneof![Just(0), Just(255), 0..8_u8, any::<u8>()], 0..80),
    ) {
        let _ = printed(oid, &value);
    }

    #[test]
    fn hostile_arrays_and_composites_are_an_error_and_nothing_worse(
        dimensions in 0..8_i32,
        element in every_oid(),
        words in proptest::collection::vec(prop_oneof![-2..6_i32, any::<i32>()], 0..20),
    ) {
        let header = [dimensions, 0, element as i32];
        let value: Vec<u8> = header.iter().chain(&words).flat_map(|word| word.to_be_bytes()).collect();
        for oid in [1007, 90_002, 90_004, 90_005, 90_007, 22] {
            let _ = printed(oid, &value);
        }
    }
}

#[test]
fn values_that_nest_without_end_are_refused() {
    // Composites in composites, 10,000 deep.
    let mut value = Vec::new();
    for depth in 0..10_000 {
        let inner = std::mem::take(&mut value);
        value.extend(1_i32.to_be_bytes());
        value.extend(if depth == 0 { 23_u32 } else { 90_004 }.to_be_bytes());
        value.extend((inner.len() as i32).to_be_bytes());
        value.extend(inner);
    }
    assert_eq!(printed(90_004, &value), None);
}

#[test]
fn long_queries_do_not_need_a_deep_stack() {
    let count = 100_001_i32;
    let mut value = count.to_be_bytes().to_vec();
    for _ in 0..50_000 {
        value.extend([2, 2, 1, 0, 0, b'a', 0]);
    }
    value.extend([1, 0, 0, b'b', 0]);
    let text = printed(3615, &value).expect("a query");
    assert!(text.starts_with("'b' & 'a' & 'a'") && text.len() == 50_000 * 6 + 3);
}
