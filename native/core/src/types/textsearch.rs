//! tsvector and tsquery.

use super::cursor::Cursor;
use super::digits::push_u64;
use crate::fault::Fault;

type Written = Result<(), Fault>;

const NOT: u8 = 1;
const AND: u8 = 2;
const OR: u8 = 3;
const PHRASE: u8 = 4;

/// Lexemes with positions and weights: 'cat':3A,5 'dog'.
pub fn tsvector(value: &[u8], out: &mut Vec<u8>) -> Written {
    let mut cursor = Cursor::new(value);
    for number in 0..cursor.count(3)? {
        if number > 0 {
            out.push(b' ');
        }
        push_lexeme(out, cursor.until_zero()?);
        for place in 0..cursor.u16()? {
            out.push(if place == 0 { b':' } else { b',' });
            let position = cursor.u16()?;
            push_u64(out, (position & 0x3FFF).into());
            out.extend(match position >> 14 {
                3 => Some(b'A'),
                2 => Some(b'B'),
                1 => Some(b'C'),
                _ => None,
            });
        }
    }
    cursor.end()
}

/// An expression in infix form. It is sent in Polish notation with the right operand first.
pub fn tsquery(value: &[u8], out: &mut Vec<u8>) -> Written {
    let items = query_items(value)?;
    if items.is_empty() {
        return Ok(());
    }
    let left = left_operands(&items)?;
    // Expressions may be deep (a & b & c & ...): printed with a stack of our own.
    let mut tasks = vec![Task::Item { at: 0, above: 0, right_of_phrase: false }];
    while let Some(task) = tasks.pop() {
        let (at, above, right_of_phrase) = match task {
            Task::Text(text) => {
                out.extend_from_slice(text);
                continue;
            }
            Task::Distance(distance) => {
                out.extend_from_slice(b" <");
                push_u64(out, distance.into());
                out.extend_from_slice(b"> ");
                continue;
            }
            Task::Item { at, above, right_of_phrase } => (at, above, right_of_phrase),
        };
        let (operator, distance) = match items[at] {
            Item::Value { lexeme, weight, prefix } => {
                push_operand(out, lexeme, weight, prefix);
                continue;
            }
            Item::Operator { operator, distance } => (operator, distance),
        };
        let priority = priority(operator);
        if priority < above || (operator == PHRASE && right_of_phrase) {
            out.extend_from_slice(b"( ");
            tasks.push(Task::Text(b" )"));
        }
        if operator == NOT {
            out.push(b'!');
            tasks.push(Task::Item { at: at + 1, above: priority, right_of_phrase: false });
            continue;
        }
        tasks.push(Task::Item { at: at + 1, above: priority, right_of_phrase: operator == PHRASE });
        tasks.push(match operator {
            AND => Task::Text(b" & "),
            OR => Task::Text(b" | "),
            _ if distance == 1 => Task::Text(b" <-> "),
            _ => Task::Distance(distance),
        });
        tasks.push(Task::Item { at: left[at], above: priority, right_of_phrase: false });
    }
    Ok(())
}

enum Item<'a> {
    Value { lexeme: &'a [u8], weight: u8, prefix: bool },
    Operator { operator: u8, distance: u16 },
}

enum Task {
    Item { at: usize, above: u8, right_of_phrase: bool },
    Text(&'static [u8]),
    Distance(u16),
}

fn priority(operator: u8) -> u8 {
    match operator {
        NOT => 4,
        PHRASE => 3,
        AND => 2,
        _ => 1,
    }
}

fn query_items(value: &[u8]) -> Result<Vec<Item<'_>>, Fault> {
    let mut cursor = Cursor::new(value);
    let count = cursor.count(2)?;
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        let at = cursor.at();
        items.push(match cursor.u8()? {
            1 => {
                let (weight, prefix) = (cursor.u8()?, cursor.u8()? != 0);
                Item::Value { lexeme: cursor.until_zero()?, weight, prefix }
            }
            2 => match cursor.u8()? {
                operator @ (NOT | AND | OR) => Item::Operator { operator, distance: 0 },
                PHRASE => Item::Operator { operator: PHRASE, distance: cursor.u16()? },
                _ => return Err(Fault::new("a tsquery with an unknown operator", at + 1)),
            },
            _ => return Err(Fault::new("a tsquery with an unknown item", at)),
        });
    }
    cursor.end()?;
    Ok(items)
}

/// For each operator with two operands, where its left one begins (the right one is next to it).
fn left_operands(items: &[Item<'_>]) -> Result<Vec<usize>, Fault> {
    let incomplete = || Fault::new("a tsquery with an operand missing or too many", 0);
    let mut left = vec![0; items.len()];
    // Ends of the operands read so far, seen from the end of the query.
    let mut ends: Vec<usize> = Vec::new();
    for at in (0..items.len()).rev() {
        match items[at] {
            Item::Value { .. } => ends.push(at + 1),
            Item::Operator { operator: NOT, .. } if !ends.is_empty() => {}
            Item::Operator { operator: NOT, .. } => return Err(incomplete()),
            Item::Operator { .. } => {
                left[at] = ends.pop().ok_or_else(incomplete)?;
                if ends.is_empty() {
                    return Err(incomplete());
                }
            }
        }
    }
    if ends.len() == 1 { Ok(left) } else { Err(incomplete()) }
}

fn push_operand(out: &mut Vec<u8>, lexeme: &[u8], weight: u8, prefix: bool) {
    push_lexeme(out, lexeme);
    if weight & 15 != 0 || prefix {
        out.push(b':');
    }
    if prefix {
        out.push(b'*');
    }
    for (bit, name) in [(8, b'A'), (4, b'B'), (2, b'C'), (1, b'D')] {
        if weight & bit != 0 {
            out.push(name);
        }
    }
}

fn push_lexeme(out: &mut Vec<u8>, lexeme: &[u8]) {
    out.push(b'\'');
    for byte in lexeme {
        if matches!(byte, b'\'' | b'\\') {
            out.push(*byte);
        }
        out.push(*byte);
    }
    out.push(b'\'');
}
