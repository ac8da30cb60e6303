//! The built-in types by oid.

use super::{Shape, datetime, float, geometry, nested, network, numeric, scalar, textsearch};

/// None for what is not built in. Types whose binary form only the server can turn into text (reg*: an oid for a name;
/// statistics), and those without one, are Opaque.
pub fn shape(oid: u32) -> Option<Shape> {
    Some(match oid {
        24 | 2202..=2206 | 3734 | 3769 | 4089 | 4096 | 4191 => Shape::Opaque, // reg*
        1033 | 3642 => Shape::Opaque,                                         // aclitem, gtsvector: no send function
        3361 | 3402 | 4600 | 4601 | 5017 => Shape::Opaque,                    // statistics and summaries
        3904 => Shape::Range(23),
        3906 => Shape::Range(1700),
        3908 => Shape::Range(1114),
        3910 => Shape::Range(1184),
        3912 => Shape::Range(1082),
        3926 => Shape::Range(20),
        4451 => Shape::Multirange(3904),
        4532 => Shape::Multirange(3906),
        4533 => Shape::Multirange(3908),
        4534 => Shape::Multirange(3910),
        4535 => Shape::Multirange(3912),
        4536 => Shape::Multirange(3926),
        _ => return scalar_shape(oid).or_else(|| array_shape(oid)),
    })
}

fn scalar_shape(oid: u32) -> Option<Shape> {
    let print: super::Print = match oid {
        16 => scalar::boolean,
        17 => scalar::bytea,
        18 => scalar::one_byte,
        // name, text, json, xml, pg_node_tree, unknown, bpchar, varchar, refcursor
        19 | 25 | 114 | 142 | 194 | 705 | 1042 | 1043 | 1790 => scalar::text,
        20 => scalar::int8,
        21 => scalar::int2,
        22 => nested::int2vector,
        23 => scalar::int4,
        26 | 28 | 29 => scalar::uint4,
        27 => scalar::tid,
        30 => nested::oidvector,
        600 => geometry::point,
        601 => geometry::lseg,
        602 => geometry::path,
        603 => geometry::boxed,
        604 => geometry::polygon,
        628 => geometry::line,
        650 => network::cidr,
        700 => float::float4,
        701 => float::float8,
        718 => geometry::circle,
        774 => network::macaddr8,
        790 => scalar::money,
        829 => network::macaddr,
        869 => network::inet,
        1082 => datetime::date,
        1083 => datetime::time,
        1114 => datetime::timestamp,
        1184 => datetime::timestamptz,
        1186 => datetime::interval,
        1266 => datetime::timetz,
        1560 | 1562 => scalar::bits,
        1700 => numeric::numeric,
        2950 => scalar::uuid,
        2970 | 5038 => scalar::snapshot,
        3220 => scalar::pg_lsn,
        3614 => textsearch::tsvector,
        3615 => textsearch::tsquery,
        3802 | 4072 => scalar::versioned_text,
        5069 => scalar::uint8,
        _ => return None,
    };
    Some(Shape::Scalar(oid, print))
}

fn array_shape(oid: u32) -> Option<Shape> {
    let at = ARRAYS.binary_search_by_key(&oid, |pair| pair.0).ok()?;
    let element = ARRAYS[at].1;
    Some(Shape::Array { element, delimiter: if element == 603 { b';' } else { b',' } })
}

/// (array, element), by array.
#[rustfmt::skip]
static ARRAYS: [(u32, u32); 76] = [
    (143, 142), (199, 114), (271, 5069), (629, 628), (651, 650), (719, 718), (775, 774), (791, 790),
    (1000, 16), (1001, 17), (1002, 18), (1003, 19), (1005, 21), (1006, 22), (1007, 23), (1008, 24), (1009, 25),
    (1010, 27), (1011, 28), (1012, 29), (1013, 30), (1014, 1042), (1015, 1043), (1016, 20), (1017, 600), (1018, 601),
    (1019, 602), (1020, 603), (1021, 700), (1022, 701), (1027, 604), (1028, 26), (1034, 1033), (1040, 829),
    (1041, 869), (1115, 1114), (1182, 1082), (1183, 1083), (1185, 1184), (1187, 1186), (1231, 1700), (1270, 1266),
    (1561, 1560), (1563, 1562), (2201, 1790), (2207, 2202), (2208, 2203), (2209, 2204), (2210, 2205), (2211, 2206),
    (2949, 2970), (2951, 2950), (3221, 3220), (3643, 3614), (3644, 3642), (3645, 3615), (3735, 3734), (3770, 3769),
    (3807, 3802), (3905, 3904), (3907, 3906), (3909, 3908), (3911, 3910), (3913, 3912), (3927, 3926), (4073, 4072),
    (4090, 4089), (4097, 4096), (4192, 4191), (5039, 5038), (6150, 4451), (6151, 4532), (6152, 4533), (6153, 4534),
    (6155, 4535), (6157, 4536),
];
