//! The messages of made-up transactions, as a walsender sends them, and what must come out.

use super::{Cell, Change, Line, Step, TABLES, Transaction};

/// Writes messages; keeps what the server would: definitions, LSNs, xids.
pub struct Walsender {
    pub frames: Vec<Vec<u8>>,
    pub expected: Vec<Line>,
    pub through: u64,
    lsn: u64,
    xid: u32,
    wide: [bool; TABLES],
    announced: [Option<bool>; TABLES],
}

impl Walsender {
    /// The messages of these transactions; `streaming`: those that want to be are streamed, two at a time interleaved.
    pub fn new(transactions: &[Transaction], streaming: bool) -> Walsender {
        let (wide, announced) = ([false; TABLES], [None; TABLES]);
        let mut out = Walsender { frames: vec![], expected: vec![], through: 0, lsn: 1000, xid: 700, wide, announced };
        let mut waiting: Option<(u32, Vec<Change>)> = None;
        for transaction in transactions {
            out.xid += 10;
            let (xid, wide) = (out.xid, out.wide);
            // A definition changed by a transaction that goes away is not changed.
            let survivors: Vec<Change> =
                transaction.changes.iter().filter(|c| !transaction.aborted[c.sub as usize]).cloned().collect();
            if streaming && transaction.streamed {
                out.blocks(xid, transaction);
                if transaction.rolled_back {
                    out.data(&[&b"A"[..], &xid.to_be_bytes(), &xid.to_be_bytes()]);
                } else if waiting.is_none() && !alters(&transaction.changes) {
                    // Its commit comes after the next transaction's.
                    waiting = Some((xid, survivors));
                    continue;
                } else {
                    out.wide = wide;
                    out.stream_commit(xid, &survivors);
                }
            } else if !transaction.rolled_back {
                out.plain(xid, transaction, &survivors);
            }
            if transaction.rolled_back {
                out.wide = wide;
            }
            if let Some((xid, survivors)) = waiting.take() {
                out.stream_commit(xid, &survivors);
            }
        }
        if let Some((xid, survivors)) = waiting.take() {
            out.stream_commit(xid, &survivors);
        }
        out.keepalive(out.lsn + 7);
        out.through = out.lsn + 7;
        out
    }

    fn frame(&mut self, message: Vec<u8>) {
        let mut frame = vec![b'w'];
        frame.extend([self.lsn.to_be_bytes(), self.lsn.to_be_bytes(), 5u64.to_be_bytes()].concat());
        frame.extend(message);
        self.frames.push(frame);
    }

    fn data(&mut self, parts: &[&[u8]]) {
        self.frame(parts.concat());
    }

    pub fn keepalive(&mut self, lsn: u64) {
        self.frames.push([&b"k"[..], &lsn.to_be_bytes(), &0u64.to_be_bytes(), &[0]].concat());
    }

    fn plain(&mut self, xid: u32, transaction: &Transaction, survivors: &[Change]) {
        self.lsn += 100;
        let commit = self.lsn;
        self.data(&[b"B", &commit.to_be_bytes(), &9u64.to_be_bytes(), &xid.to_be_bytes()]);
        if transaction.origin {
            self.data(&[b"O", &3u64.to_be_bytes(), b"elsewhere\0"]);
        }
        let mut ordinal = 0;
        let mut announced = self.announced;
        for change in survivors {
            self.change(change, None, &mut announced);
            self.expect(xid, commit, &mut ordinal, change);
        }
        self.announced = announced;
        self.data(&[b"C\0", &commit.to_be_bytes(), &(commit + 20).to_be_bytes(), &9u64.to_be_bytes()]);
        self.lsn += 20;
        if xid.is_multiple_of(3) {
            self.keepalive(self.lsn + 1);
        }
    }

    fn blocks(&mut self, xid: u32, transaction: &Transaction) {
        // Definitions are announced once a streamed transaction, and again after an abort in it.
        let mut announced = [None; TABLES];
        let mut first = true;
        let mut dropped = [false; 4];
        for sub in (1..4u8).filter(|&sub| transaction.aborted[sub as usize]) {
            let mine: Vec<&Change> = transaction.changes.iter().filter(|c| c.sub == sub).collect();
            let wide = self.wide;
            for block in mine.chunks(transaction.block) {
                self.block(xid, std::mem::take(&mut first), transaction, block, &mut announced);
            }
            if !mine.is_empty() {
                dropped[sub as usize] = true;
                self.data(&[b"A", &xid.to_be_bytes(), &(xid + u32::from(sub)).to_be_bytes()]);
            }
            (announced, self.wide) = ([None; TABLES], wide);
        }
        let rest: Vec<&Change> = transaction.changes.iter().filter(|c| !transaction.aborted[c.sub as usize]).collect();
        for block in rest.chunks(transaction.block) {
            self.block(xid, std::mem::take(&mut first), transaction, block, &mut announced);
        }
        if first {
            self.block(xid, true, transaction, &[], &mut announced);
        }
    }

    fn block(
        &mut self,
        xid: u32,
        first: bool,
        of: &Transaction,
        changes: &[&Change],
        announced: &mut [Option<bool>; TABLES],
    ) {
        self.data(&[b"S", &xid.to_be_bytes(), &[u8::from(first)]]);
        if first && of.origin {
            self.data(&[b"O", &3u64.to_be_bytes(), b"elsewhere\0"]);
        }
        for change in changes {
            self.change(change, Some(xid + u32::from(change.sub)), announced);
        }
        self.data(&[b"E"]);
        self.keepalive(self.lsn);
    }

    fn stream_commit(&mut self, xid: u32, survivors: &[Change]) {
        self.lsn += 100;
        let commit = self.lsn;
        let (c, e) = (commit.to_be_bytes(), (commit + 20).to_be_bytes());
        self.data(&[b"c", &xid.to_be_bytes(), b"\0", &c, &e, &9u64.to_be_bytes()]);
        let mut ordinal = 0;
        for change in survivors {
            self.expect(xid, commit, &mut ordinal, change);
            if matches!(change.step, Step::Alter) {
                self.wide[change.table] ^= true;
                self.announced[change.table] = None;
            }
        }
        self.lsn += 20;
    }

    fn change(&mut self, change: &Change, sub: Option<u32>, announced: &mut [Option<bool>; TABLES]) {
        let xid = sub.map_or(vec![], |xid| xid.to_be_bytes().to_vec());
        let table = change.table;
        let named: Vec<usize> = match &change.step {
            Step::Alter => {
                self.wide[table] ^= true;
                announced[table] = None;
                return;
            }
            Step::Message(_) => vec![],
            Step::Truncate(more) => (0..TABLES).filter(|&t| t == table || more & (1 << (t % 2)) != 0).collect(),
            _ => vec![table],
        };
        for &table in &named {
            if announced[table] != Some(self.wide[table]) {
                announced[table] = Some(self.wide[table]);
                let columns = if self.wide[table] { 5u16 } else { 4 };
                let mut message = [&b"R"[..], &xid, &oid(table).to_be_bytes(), b"public\0"].concat();
                message.extend(format!("t{table}\0d").bytes());
                message.extend(columns.to_be_bytes());
                for column in 0..columns {
                    message.push(u8::from(column == 0));
                    message.extend(format!("c{column}\0").bytes());
                    message.extend([25u32.to_be_bytes(), u32::MAX.to_be_bytes()].concat());
                }
                self.frame(message);
            }
        }
        let head = |tag: &[u8]| [tag, &xid, &oid(table).to_be_bytes()].concat();
        let wide = self.wide[table];
        let message = match &change.step {
            Step::Insert(new) => [head(b"I"), tuple(b'N', new, wide)].concat(),
            Step::Update { old: None, new } => [head(b"U"), tuple(b'N', new, wide)].concat(),
            Step::Update { old: Some((whole, old)), new } => {
                [head(b"U"), tuple(if *whole { b'O' } else { b'K' }, old, wide), tuple(b'N', new, wide)].concat()
            }
            Step::Delete { whole, old } => [head(b"D"), tuple(if *whole { b'O' } else { b'K' }, old, wide)].concat(),
            Step::Truncate(_) => {
                let mut message = [&b"T"[..], &xid, &(named.len() as u32).to_be_bytes(), &[1]].concat();
                named.iter().for_each(|&table| message.extend(oid(table).to_be_bytes()));
                message
            }
            Step::Message(content) => {
                let len = (content.len() as u32).to_be_bytes();
                [&b"M"[..], &xid, &[1], &77u64.to_be_bytes(), b"app\0", &len, content].concat()
            }
            Step::Alter => return,
        };
        self.frame(message);
    }

    fn expect(&mut self, xid: u32, commit: u64, ordinal: &mut u64, change: &Change) {
        let one = |cells: &[Cell]| format!("{cells:?}");
        let name = format!("t{}", change.table);
        *ordinal += u64::from(!matches!(change.step, Step::Alter));
        let mut line = |op, name, text| self.expected.push((xid, commit, *ordinal, op, name, text));
        match &change.step {
            Step::Insert(new) => line(b'I', name, one(new)),
            Step::Update { old: None, new } => line(b'U', name, one(new)),
            Step::Update { old: Some((whole, old)), new } => {
                line(b'U', name, format!("{whole} {} {}", one(old), one(new)));
            }
            Step::Delete { whole, old } => line(b'D', name, format!("{whole} {} ", one(old))),
            Step::Truncate(more) => {
                for table in (0..TABLES).filter(|&t| t == change.table || more & (1 << (t % 2)) != 0) {
                    line(b'T', format!("t{table}"), String::new());
                }
            }
            Step::Message(content) => line(b'M', String::new(), format!("{content:?}")),
            Step::Alter => {}
        }
    }
}

fn alters(changes: &[Change]) -> bool {
    changes.iter().any(|change| matches!(change.step, Step::Alter))
}

fn oid(table: usize) -> u32 {
    16384 + table as u32
}

/// A wide table's fifth column is null.
fn tuple(tag: u8, cells: &[Cell], wide: bool) -> Vec<u8> {
    let mut out = vec![tag, 0, cells.len() as u8 + u8::from(wide)];
    for cell in cells.iter().chain(wide.then_some(&Cell::Null)) {
        let (kind, bytes) = match cell {
            Cell::Null => (b'n', None),
            Cell::Unchanged => (b'u', None),
            Cell::Text(bytes) => (b't', Some(bytes)),
            Cell::Binary(bytes) => (b'b', Some(bytes)),
        };
        out.push(kind);
        if let Some(bytes) = bytes {
            out.extend((bytes.len() as u32).to_be_bytes());
            out.extend(bytes);
        }
    }
    out
}
