//! A view as JSON lines: one change a line, in commit order.

use crate::fault::Fault;
use crate::filter::View;
use crate::index::{Detail, Entry, Index, Kind, NONE, OldKind, Op, Value};
use crate::text;
use crate::types::scalar::push_lsn;
use crate::types::{Catalog, Shape, datetime, oid, push_u64};

/// Every change of the view. `keys` holds, for each relation, its key's column numbers.
pub fn lines(view: &View, catalog: &Catalog, keys: &[Vec<usize>]) -> Result<Vec<u8>, Fault> {
    let index = view.index();
    let relations: Vec<RelationNames> = (0..index.relations.len() as u32)
        .map(|relation| {
            let key = keys.get(relation as usize).map_or(&[][..], Vec::as_slice);
            RelationNames::new(index, catalog, relation, key)
        })
        .collect();
    let mut lines = Lines { index, catalog, out: Vec::with_capacity(2 * index.arena.len()), scratch: Vec::new() };
    for entry in view.entries() {
        lines.entry(entry, relations.get(entry.relation as usize))?;
    }
    match std::str::from_utf8(&lines.out) {
        Ok(_) => Ok(lines.out),
        Err(_) => Err(Fault::new("text that is not UTF-8", 0)),
    }
}

/// How a type's values look in JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Bool,
    Number,
    /// NaN and infinities are strings.
    Float,
    Json,
    String,
}

struct Field {
    /// `"name":`
    label: Vec<u8>,
    shape: Shape,
    look: Look,
    key: bool,
}

/// What is the same in every line of a relation.
struct RelationNames {
    /// `,"schema":"s","table":"t"`
    table: Vec<u8>,
    fields: Vec<Field>,
    keyed: bool,
}

impl RelationNames {
    fn new(index: &Index, catalog: &Catalog, relation: u32, key: &[usize]) -> RelationNames {
        let relation = &index.relations[relation as usize];
        let mut table = Vec::new();
        for (label, name) in [(&b",\"schema\":"[..], &relation.schema), (b",\"table\":", &relation.name)] {
            table.extend_from_slice(label);
            push_string(&mut table, name.as_bytes());
        }
        let field = |(number, column): (usize, &crate::index::Column)| {
            let shape = catalog.shape(column.type_oid);
            let look = match shape.scalar_oid() {
                oid::BOOL => Look::Bool,
                oid::INT2 | oid::INT4 | oid::INT8 | oid::OID => Look::Number,
                oid::FLOAT4 | oid::FLOAT8 => Look::Float,
                oid::JSON | oid::JSONB => Look::Json,
                _ => Look::String,
            };
            let mut label = Vec::new();
            push_string(&mut label, column.name.as_bytes());
            label.push(b':');
            Field { label, shape, look, key: key.contains(&number) }
        };
        let fields = relation.columns.iter().enumerate().map(field).collect();
        RelationNames { table, fields, keyed: !key.is_empty() }
    }
}

struct Lines<'a> {
    index: &'a Index,
    catalog: &'a Catalog,
    out: Vec<u8>,
    scratch: Vec<u8>,
}

impl Lines<'_> {
    fn entry(&mut self, entry: &Entry, relation: Option<&RelationNames>) -> Result<(), Fault> {
        let op = match entry.op {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Delete => "delete",
            Op::Truncate => "truncate",
            Op::Message => "message",
            Op::Read => "snapshot",
        };
        self.raw("{\"op\":\"");
        self.raw(op);
        self.raw("\"");
        if let Some(relation) = relation {
            self.out.extend_from_slice(&relation.table);
        }
        self.place(entry);
        match (entry.op, self.index.details.get(entry.detail as usize)) {
            (Op::Truncate, Some(Detail::Truncate { cascade, restart_identity })) => {
                self.raw(if *cascade { ",\"cascade\":true" } else { ",\"cascade\":false" });
                self.raw(",\"restart_identity\":");
                self.raw(if *restart_identity { "true" } else { "false" });
            }
            (Op::Message, Some(Detail::Message { prefix, content, transactional, .. })) => {
                self.raw(",\"prefix\":");
                push_string(&mut self.out, prefix.as_bytes());
                self.raw(",\"content\":\"");
                push_base64(&mut self.out, content.bytes(&self.index.arena));
                self.raw("\",\"transactional\":");
                self.raw(if *transactional { "true" } else { "false" });
            }
            _ => {
                if let Some(relation) = relation {
                    self.tuples(entry, relation)?;
                }
            }
        }
        self.raw("}\n");
        Ok(())
    }

    fn place(&mut self, entry: &Entry) {
        let transaction = &self.index.transactions[entry.transaction as usize];
        self.raw(",\"lsn\":\"");
        push_lsn(&mut self.out, transaction.commit_lsn);
        self.raw("\",\"ordinal\":");
        push_u64(&mut self.out, entry.ordinal);
        if entry.op == Op::Read {
            return;
        }
        self.raw(",\"xid\":");
        push_u64(&mut self.out, transaction.xid.into());
        self.raw(",\"ts\":\"");
        datetime::push_rfc3339(&mut self.out, transaction.commit_time.saturating_add(datetime::EPOCH_MICROS));
        self.raw("\"");
        if let Some(origin) = &transaction.origin {
            self.raw(",\"origin\":");
            push_string(&mut self.out, origin.as_bytes());
        }
    }

    fn tuples(&mut self, entry: &Entry, relation: &RelationNames) -> Result<(), Fault> {
        let before = if entry.old == NONE { entry.new } else { entry.old };
        if relation.keyed && before != NONE {
            self.raw(",\"key\":");
            self.tuple(before, relation, |field| field.key)?;
        }
        if entry.new != NONE {
            self.raw(",\"new\":");
            self.tuple(entry.new, relation, |_| true)?;
        }
        if entry.old_kind == OldKind::Row && entry.old != NONE {
            self.raw(",\"old\":");
            self.tuple(entry.old, relation, |_| true)?;
        }
        if entry.op == Op::Update && entry.new != NONE {
            self.unchanged(entry.new, relation);
        }
        Ok(())
    }

    fn tuple(&mut self, first: u32, relation: &RelationNames, wanted: impl Fn(&Field) -> bool) -> Result<(), Fault> {
        let values = self.index.tuple(first, relation.fields.len());
        let mut mark = b'{';
        for (field, value) in relation.fields.iter().zip(values) {
            if !wanted(field) || value.kind() == Kind::Unchanged {
                continue;
            }
            self.out.push(mark);
            mark = b',';
            self.out.extend_from_slice(&field.label);
            self.value(field, *value)?;
        }
        self.raw(if mark == b'{' { "{}" } else { "}" });
        Ok(())
    }

    fn unchanged(&mut self, first: u32, relation: &RelationNames) {
        let values = self.index.tuple(first, relation.fields.len());
        let mut mark = ",\"unchanged\":[";
        for (field, _) in relation.fields.iter().zip(values).filter(|(_, value)| value.kind() == Kind::Unchanged) {
            self.raw(mark);
            self.out.extend_from_slice(&field.label[..field.label.len() - 1]);
            mark = ",";
        }
        if mark == "," {
            self.raw("]");
        }
    }

    fn value(&mut self, field: &Field, value: Value) -> Result<(), Fault> {
        self.scratch.clear();
        if !text::write(self.catalog, field.shape, &self.index.arena, value, &mut self.scratch)? {
            self.raw("null");
            return Ok(());
        }
        let (text, out) = (&self.scratch, &mut self.out);
        match field.look {
            Look::Bool => out.extend_from_slice(if text == b"t" { b"true" } else { b"false" }),
            Look::Number | Look::Float if is_number(text) => out.extend_from_slice(text),
            Look::Number | Look::Float | Look::String => push_string(out, text),
            Look::Json => out.extend(text.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte })),
        }
        Ok(())
    }

    fn raw(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }
}

/// Whether PostgreSQL's text of a number is one for JSON, too: all but NaN and the infinities.
pub(crate) fn is_number(text: &[u8]) -> bool {
    text.last().is_some_and(u8::is_ascii_digit)
}

pub(crate) fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..32)) {
        out.extend_from_slice(&rest[..at]);
        let (short, byte) = match rest[at] {
            b'\n' => (true, b'n'),
            b'\r' => (true, b'r'),
            b'\t' => (true, b't'),
            8 => (true, b'b'),
            12 => (true, b'f'),
            byte @ (b'"' | b'\\') => (true, byte),
            byte => (false, byte),
        };
        if short {
            out.extend_from_slice(&[b'\\', byte]);
        } else {
            out.extend_from_slice(b"\\u00");
            crate::types::scalar::push_hex(out, &[byte]);
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    static ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= chunk.len() { digit } else { b'=' });
        }
    }
}
