"""Values of every type that PostgreSQL has built in, as SQL literals; the odd ones above all."""

from __future__ import annotations

from typing import Final

FLOATS: Final = (
    "0", "-0", "1", "-1", "0.1", "1e15", "1e14", "123456789012345", "1234567890123456", "1e-4", "1e-5", "0.00012345",
    "1e22", "1e23", "9007199254740993", "4.35", "NaN", "Infinity", "-Infinity", "1125899906842624.25",
    "1125899906842624.75", "2251799813685248.5", "562949953421312.125", "9223372036854775808", "18014398509481988",
)  # fmt: skip

VALUES: Final[dict[str, tuple[str, ...]]] = {
    "bool": ("t", "f"),
    "int2": ("0", "-32768", "32767", "99", "100"),
    "int4": ("0", "-2147483648", "2147483647", "1000000"),
    "int8": ("0", "-9223372036854775808", "9223372036854775807", "12345678901"),
    "oid": ("0", "4294967295"),
    "xid": ("0", "4294967295"),
    "cid": ("0", "4294967295"),
    "tid": ("(0,1)", "(4294967295,65535)"),
    "float4": (*FLOATS, "1e-45", "3.4028235e38", "1.1754944e-38", "16777217", "33554434.5", "1e6", "999999", "8388608.5"),
    "float8": (*FLOATS, "5e-324", "1.7976931348623157e308", "2.2250738585072014e-308"),
    "numeric": (
        "0", "0.00", "-0.00", "1", "-1", "10000", "9999.9999", "0.0001", "0.00001", "1e-30", "1e30", "123456789.123456789",
        "-12345678901234567890.12345678901234567890", "NaN", "1.10", "100000000", "0.00000000000000000000012300",
        "1e500", "1e-500", "99999999999999999999999999999999999999", "10000.00010000", "1000000000000000000000000.5",
    ),
    "numeric(10,2)": ("0", "1.5", "-12345678.99", "99999999.99", "NaN", "0.01"),
    "money": ("0", "0.01", "-0.01", "1234.56", "-1234567.89", "92233720368547758.07", "-92233720368547758.08", "999", "1000"),
    "text": ("", "a", "ä€😀", "tab\there", "line\nbreak", "back\\slash", 'quote"', "\\N", "\r\b\f\x0b\x01", "NULL", "'"),
    "varchar(20)": ("", "abc", "  x "),
    "bpchar": ("a  ", ""),
    "char(5)": ("ab", "abcde", ""),
    '"char"': ("a", "", "0", "\\", " "),
    "name": ("pg_class", ""),
    "bytea": ("", "\\x00ff10", "\\x5c", "abc"),
    "bit(3)": ("101", "000"),
    "bit(16)": ("1010101011110000",),
    "varbit": ("", "1", "10101010101"),
    "date": ("2000-01-01", "1999-12-31", "0001-01-01", "0001-12-31 BC", "4714-11-24 BC", "5874897-12-31", "infinity",
             "-infinity", "2024-02-29", "1900-03-01", "10000-01-01"),
    "time": ("00:00", "23:59:59.999999", "24:00", "12:34:56.1", "01:02:03.000100"),
    "timetz": ("00:00+00", "12:34:56.789-08", "23:59:59.999999+14:30", "01:02:03+00:00:59", "24:00-15:59:59"),
    "timestamp": ("2000-01-01", "1999-12-31 23:59:59.999999", "4714-11-24 00:00:00 BC", "294276-12-31 23:59:59.999999",
                  "infinity", "-infinity", "0044-03-15 12:00 BC", "1970-01-01 00:00:00.5", "12345-06-07 08:09:10.01"),
    "timestamptz": ("2000-01-01 00:00+00", "1999-12-31 23:59:59.999999-05", "4714-11-24 00:00:00+00 BC",
                    "294276-12-31 23:59:59.999999+00", "infinity", "-infinity", "2024-07-01 12:00+02"),
    "interval": ("0", "1 day", "-1 day", "1 mon", "1 year 2 mons 3 days 04:05:06.789", "-1 year", "1 year -1 mon",
                 "-1 year 1 mon", "1 day -00:00:01", "-1 day 00:00:01", "-13 mons 5 days -04:05:06.7", "100:00:00",
                 "-00:00:00.000001", "178000000 years", "1 mon -1 day", "23 mons", "-1 mon 1 day", "2147483647:59:59.999999"),
    "uuid": ("00000000-0000-0000-0000-000000000000", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    "json": ('{"a": 1}', '[1,\n 2]', '"x\\ny"', "null", " 1 ", '{"b":"\\u0041","a":1.50}'),
    "jsonb": ('{"a": 1}', "[1, 2, null]", '"x\\ny"', "null", "1.50", '{"b": {"c": []}}', "1e5"),
    "jsonpath": ("$.a[*] ? (@ > 1)", "lax $", "strict $.x"),
    "xml": ("<a/>", '<?xml version="1.0"?><a>ä</a>', "<a b='c'/>\n"),
    "inet": ("1.2.3.4", "1.2.3.4/24", "0.0.0.0/0", "::1", "::", "::/0", "2001:db8::1", "::ffff:1.2.3.4", "::1.2.3.4",
             "2001:0:0:1:0:0:0:1/64", "1:2:3:4:5:6:7:8", "1::8", "1:0:0:4:5:0:0:8", "::2", "::ffff:0:0", "::1:0", "fe80::/10",
             "1:2:3:4:5:6:0:0", "0:0:1::", "1:0:3:4:5:6:7:8"),
    "cidr": ("10.0.0.0/8", "1.2.3.4/32", "0.0.0.0/0", "::/0", "2001:db8::/32", "::1/128", "::ffff:1.2.3.0/120"),
    "macaddr": ("08:00:2b:01:02:03", "ff:ff:ff:ff:ff:ff"),
    "macaddr8": ("08:00:2b:01:02:03:04:05",),
    "point": ("(0,0)", "(-1.5,1e300)", "(NaN,Infinity)"),
    "line": ("{1,2,3}", "{-1,0,0.1}"),
    "lseg": ("[(0,0),(1,1)]",),
    "box": ("(1,1),(0,0)", "(0,5),(3,2)"),
    "path": ("((0,0),(1,1),(2,0))", "[(0,0),(1,1)]", "((1,2))"),
    "polygon": ("((0,0),(1,1),(2,0))", "((1,2))"),
    "circle": ("<(0,0),1>", "<(1.5,-2),0.1>"),
    "tsvector": ("", "a b c", "'a':1A,2B 'it''s':3C,4 'back\\\\slash':5", "cat:3 dog:16383A", "'with space'"),
    "tsquery": ("", "a", "a & b", "a | b & c", "(a | b) & c", "!a", "!(a | b)", "!!a", "a <-> b", "a <3> b", "a <-> (b <-> c)",
                "(a <-> b) <-> c", "a:* & b:AB", "'it''s' & 'b\\\\s'", "a:*ABCD | !b <-> c", "a & (b | !(c & d)) <2> e",
                "a & b & c & d", "a | (b | (c | d))", "!(a <-> b)", "(a & b) <-> c"),
    "pg_lsn": ("0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/A", "10/0"),
    "txid_snapshot": ("10:20:10,14,15", "1:1:"),
    "int2vector": ("", "1 2 3", "-1"),
    "oidvector": ("", "1 4294967295"),
    "int4[]": ("{}", "{1,2,3}", "{1,NULL,3}", "{{1,2},{3,4}}", "[0:2]={1,2,3}", "[-1:0][2:3]={{1,2},{3,4}}",
               "{{{1},{2}},{{3},{4}}}", "{NULL}", "{{{{{{1}}}}}}"),
    "text[]": ('{"",NULL,"null","NULL",a,"a b","a,b","a\\"b","a\\\\b","{x}","ä","\t"}', "{nuLl}", '{{"a b",c},{d,"e,f"}}'),
    "bytea[]": ('{"\\\\x00","\\\\x"}',),
    "float8[]": ("{1.5,NaN,Infinity,1e100}",),
    "numeric[]": ("{1.50,NaN,-0.001}",),
    "timestamptz[]": ('{"2024-01-01 00:00+00",infinity}',),
    "interval[]": ('{"1 day","1 mon 2 days"}',),
    "box[]": ("{(1,1),(0,0);(2,2),(1,1)}", "{{(1,1),(0,0)};{(2,2),(1,1)}}"),
    "point[]": ('{"(1,2)","(3,4)"}',),
    "jsonb[]": ('{"{\\"a\\": 1}","[]"}',),
    "bool[]": ("{t,f,NULL}",),
    "int4range": ("empty", "[1,5)", "(,)", "[1,)", "(,5)"),
    "numrange": ("[1.50,2.5]", "(NaN,)", "empty"),
    "tsrange": ("[2024-01-01,2024-02-01)", "[-infinity,infinity]", "(,)"),
    "tstzrange": ("[2024-01-01 00:00+00,2024-02-01 00:00+00)",),
    "daterange": ("[2024-01-01,2024-02-01)", "[0044-03-15 BC,)"),
    "int8range": ("[1,9223372036854775807)",),
    "tsrange[]": ('{"[2024-01-01,2024-02-01)",empty}',),
    # User-defined: see `SCHEMA`.
    "app.mood": ("happy", "so so", "it''s".replace("''", "'")),
    "app.mood[]": ('{happy,"so so",NULL}',),
    "app.price": ("1.50", "99999.99"),
    "app.tags": ("{a,b}", "[0:1]={x,y}"),
    "app.price[]": ("{1.50,NULL}",),
    "app.pair": ("(1,x)", "(,)", '(1,"")', '(2,"a b")', '(3,"a""b\\\\c")', '(4,"(x),y")', "(5,\ttab)"),
    "app.pair[]": ('{"(1,x)","(2,\\"a b\\")",NULL}',),
    "app.nested": ('(1,"(2,""x y"")","{1,2}","[1,2)",1.50,happy)', "(,,,,,)", '(7,"(,)","{}",empty,,"so so")'),
    "app.textrange": ("[a,b)", '["a b","c,d"]', '["",z]', '["[","\\\\"]', '("a""b",)', "empty"),
    "app.floatrange": ("[1.5,2.5]", "(,1e300)"),
}  # fmt: skip

SINCE: Final[dict[int, dict[str, tuple[str, ...]]]] = {
    13: {"xid8": ("0", "18446744073709551615"), "pg_snapshot": ("10:20:10,14,15", "1:1:", "18446744073709551610:18446744073709551614:")},
    14: {
        "numeric": ("Infinity", "-Infinity"),
        "numeric[]": ("{Infinity,-Infinity}",),
        "int4multirange": ("{}", "{[1,3),[5,7)}", "{(,)}"),
        "nummultirange": ("{[1.5,2.5],(3,)}",),
        "tsmultirange": ("{[2024-01-01,2024-02-01),[2024-03-01,)}",),
        "tstzmultirange": ("{[2024-01-01 00:00+00,2024-02-01 00:00+00)}",),
        "datemultirange": ("{[2024-01-01,2024-02-01)}",),
        "int8multirange": ("{[1,2)}",),
        "int4multirange[]": ('{"{[1,3),[5,7)}","{}"}',),
        "app.floatmultirange": ("{[1.5,2.5]}",),
    },
    15: {"numeric(2,-3)": ("12345", "99000"), "numeric(3,5)": ("0.00123",)},
    17: {"interval": ("infinity", "-infinity")},
}  # fmt: skip
"""What came with a major version."""

EXTENSIONS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "hstore": {"ext.hstore": ("", "a=>1", '"a b"=>"c\\"d", e=>NULL, "f\\\\"=>""', "a=>NULL"), "ext.hstore[]": ('{"a=>1"}',)},
    "vector": {"ext.vector": ("[1,2.5,-3]", "[0.1,1e-10,3e30]"), "ext.vector(2)": ("[1,2]",)},
    "citext": {"ext.citext": ("Ab c", "")},
}  # fmt: skip

SCHEMA: Final = """
create schema app;
create type app.mood as enum ('happy', 'so so', 'it''s');
create domain app.price as numeric(10,2) check (value >= 0);
create domain app.tags as text[];
create type app.pair as (a int, b text);
create type app.nested as (a int8, b app.pair, c int[], d int4range, e app.price, f app.mood);
create type app.textrange as range (subtype = text);
create type app.floatrange as range (subtype = float8);
"""

RANDOM: Final[dict[str, str]] = {
    "numeric": "(((random() - 0.5) * 2)::numeric * (10::numeric ^ ((random() * 80) - 40)::int))",
    "numeric(38,10)": "((random() - 0.5) * 1e27)::numeric(38,10)",
    "float8": "(random() - 0.5) * 10::float8 ^ (random() * 600 - 300)",
    "float4": "((random() - 0.5) * 10::float8 ^ (random() * 70 - 35))::float4",
    "int8": "((random() - 0.5) * 1.8e19)::int8",
    "money": "((random() - 0.5) * 1e14)::numeric::money",
    "timestamp": "timestamp '2000-01-01' + (random() - 0.1) * 60000 * interval '36500 days' / 100",
    "timestamptz": "timestamptz '2000-01-01 00:00+00' + (random() - 0.5) * interval '4000 years'",
    "date": "date '4714-11-24 BC' + (random() * 4e6)::int",
    "time": "time '00:00' + random() * interval '1 day'",
    "interval": "make_interval(years => (random() * 40 - 20)::int, months => (random() * 40 - 20)::int, "
    "days => (random() * 60 - 30)::int, secs => random() * 200000 - 100000)",
    "uuid": "md5(random()::text)::uuid",
    "inet": "('::'::inet + (random() * 9e18)::int8) & ('1:0:0:1::'::inet | ~('::'::inet + (random() * 9e18)::int8))",
    "bytea": "decode(md5(random()::text), 'hex')",
    "varbit": "(random() * 9e18)::int8::bit(64)::varbit",
    "text[]": "array[md5(random()::text), null, chr(32 + (random() * 90)::int) || chr(32 + (random() * 90)::int)]",
    "float8[]": "array[[random(), random() * 1e20], [random() / 1e9, -random()]]",
    "tstzrange": "tstzrange(timestamptz '2000-01-01 00:00+00', timestamptz '2000-01-01 00:00+00' + random() * interval '9 years')",
    "point": "point(random() * 1e5, -random() / 1e5)",
    "tsvector": "to_tsvector('simple', translate(md5(random()::text), '012345', '      '))",
    "app.pair": "row((random() * 1e9)::int, chr(32 + (random() * 90)::int) || chr(32 + (random() * 90)::int))::app.pair",
}
"""Expressions that give another value each time."""
