//! Damaged frames and COPY data at the native decoder, by the million: `make fuzz` makes the corpus and runs it.
//!
//!     fuzz CORPUS SEED FIRST INPUTS SECONDS
//!
//! The corpus (written by tests/fuzz.py) is correct streams and snapshots. Each input is made from the seed and its number
//! alone. What must hold: every input ends in a fault or in a batch of which anything can be asked; no panic, no input that
//! takes seconds, no memory beyond what the input justifies.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, process};

use walcast_core::arrow::Choices;
use walcast_core::assembler::{Assembler, Delivery, Limits, SpoolLimits};
use walcast_core::filter::View;
use walcast_core::index::{Budget, Kind, NONE, Relation};
use walcast_core::types::{Catalog, GivenType, TypeKind};
use walcast_core::{arrow, copy, json, net, snapshot};

const SLOW: Duration = Duration::from_secs(5);
const MOST_MEMORY: u64 = 512 << 20;
const EXTREMES: [u32; 13] =
    [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x3FFF_FFFF, 0x4000_0000];

struct Corpus {
    streams: Vec<Vec<Vec<u8>>>,
    copies: Vec<(Kind, Vec<u8>)>,
    relation: Relation,
    catalog: Catalog,
}

fn main() {
    let mut given = env::args().skip(1);
    let path = given.next().unwrap_or_else(|| usage());
    let mut number = || given.next().and_then(|text| text.parse::<u64>().ok()).unwrap_or_else(|| usage());
    let (seed, first, inputs, seconds) = (number(), number(), number(), number());
    let corpus = Corpus::read(&fs::read(&path).expect("the corpus can be read"));
    std::panic::set_hook(Box::new(|panic| eprintln!("panic: {panic}")));
    let (begun, before) = (Instant::now(), memory());
    let (mut done, mut refused, mut findings) = (0, 0, 0);
    while done < inputs && begun.elapsed() < Duration::from_secs(seconds) {
        let (at, mut draw) = (first + done, Draw::new(seed, first + done));
        let started = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| corpus.attempt(&mut draw))) {
            Ok(fault) => refused += u64::from(fault),
            Err(_) => {
                findings += 1;
                println!("input {at}: a panic");
            }
        }
        if started.elapsed() > SLOW {
            findings += 1;
            println!("input {at}: took {:.1} s", started.elapsed().as_secs_f64());
        }
        done += 1;
        if done % 100_000 == 0 {
            eprintln!("fuzz: {done} inputs, {:.0} a second", done as f64 / begun.elapsed().as_secs_f64());
        }
    }
    if memory().saturating_sub(before) > MOST_MEMORY {
        findings += 1;
        println!("the process grew by more than {MOST_MEMORY} bytes");
    }
    let rate = done as f64 / begun.elapsed().as_secs_f64();
    println!("fuzz: {done} inputs (native), {refused} refused, {rate:.0} inputs/s, seed {seed}, {findings} findings");
    process::exit(i32::from(findings > 0));
}

fn usage() -> ! {
    eprintln!("fuzz CORPUS SEED FIRST INPUTS SECONDS");
    process::exit(2)
}

impl Corpus {
    fn read(bytes: &[u8]) -> Corpus {
        let mut rest = bytes;
        let mut word = || {
            let (four, more) = rest.split_first_chunk::<4>().expect("the corpus is whole");
            rest = more;
            u32::from_be_bytes(*four) as usize
        };
        let (mut streams, mut copies) = (Vec::new(), Vec::new());
        let mut lengths = Vec::new();
        for _ in 0..word() {
            let frames = word();
            lengths.push((0..frames).map(|_| word()).collect::<Vec<_>>());
        }
        let forms: Vec<(usize, usize)> = (0..word()).map(|_| (word(), word())).collect();
        let mut take = |length: usize| {
            let (taken, more) = rest.split_at(length);
            rest = more;
            taken.to_vec()
        };
        for frames in lengths {
            streams.push(frames.into_iter().map(&mut take).collect::<Vec<_>>());
        }
        for (binary, length) in forms {
            copies.push((if binary == 1 { Kind::Binary } else { Kind::Text }, take(length)));
        }
        let catalog = Catalog::new([
            given(20_001, "pair", "composite", vec![23, 25]),
            given(20_002, "mood", "enum", Vec::new()),
            given(20_003, "hstore", "base", Vec::new()),
        ]);
        let sound = deliveries(&streams[0], 1 << 30, 1 << 30).1;
        let relation = Relation::clone(&sound[0].index.relations[0]);
        Corpus { streams, copies, relation, catalog }
    }

    /// Whether the input was refused.
    fn attempt(&self, draw: &mut Draw) -> bool {
        if draw.below(5) == 0 {
            let (kind, payload) = &self.copies[draw.below(self.copies.len())];
            let damaged = draw.damage(payload.clone());
            return match snapshot::index_rows(self.relation.clone(), damaged, *kind, 7) {
                Ok(view) => {
                    self.ask(&view, draw);
                    false
                }
                Err(_) => true,
            };
        }
        let stream = &self.streams[draw.below(self.streams.len())];
        let damaged = draw.damage_frames(stream);
        let (part, batch) = [(1 << 30, 1 << 30), (2_000, 500), (1, 1)][draw.below(3)];
        let (fault, found) = deliveries(&damaged, part, batch);
        let views: Vec<View> = found.iter().map(|delivery| View::new(Arc::clone(&delivery.index))).collect();
        for view in &views {
            self.ask(view, draw);
        }
        if let Some(joined) = View::join(&views.iter().collect::<Vec<_>>()) {
            self.ask(&joined, draw);
        }
        fault
    }

    /// One of the things that a batch can be asked for; all of them, over so many inputs.
    fn ask(&self, view: &View, draw: &mut Draw) {
        let index = view.index();
        let relations = index.relations.len();
        let key = |relation: usize| vec![0; usize::from(!index.relations[relation].columns.is_empty())];
        let choices = [("text", "text", "text"), ("decimal", "native", "list"), ("float", "text", "list")];
        let (numeric, temporal, arrays) = choices[draw.below(3)];
        let choices = Choices::parse(numeric, temporal, arrays).expect("choices that exist");
        let relation = draw.below(relations.max(1));
        match draw.below(5) {
            0 => {
                let keys: Vec<Vec<usize>> = (0..relations).map(key).collect();
                let _ = json::lines(view, &self.catalog, &keys);
            }
            1 => self.values(view),
            2 if relation < relations => {
                let _ = arrow::changes(view, relation as u32, &self.catalog, choices);
            }
            3 if relation < relations => {
                let net = net::net(view, relation as u32, &key(relation));
                let columns: Vec<usize> = (0..index.width(relation as u32)).collect();
                for rows in net.deletes.iter().chain(net.upserts.iter().map(|group| &group.rows)) {
                    let _ = copy::copy(rows, &columns);
                    let _ = arrow::rows(rows, &columns, &self.catalog, choices);
                }
            }
            _ => {
                let after = index.transactions.get(draw.below(index.transactions.len().max(1)));
                let drops = HashMap::from([(16_400, [0, 0x1100, u64::MAX][draw.below(3)])]);
                if let Some(rest) = view.select(after.map_or(0, |transaction| transaction.commit_lsn), &drops)
                    && let Some(joined) = View::join(&[&rest, &rest])
                {
                    self.values(&joined);
                }
            }
        }
    }

    /// Every value of every change.
    fn values(&self, view: &View) {
        let index = view.index();
        for entry in view.entries() {
            for first in [entry.new, entry.old] {
                if first != NONE {
                    let values = index.tuple(first, index.width(entry.relation));
                    std::hint::black_box(values.iter().map(|value| value.bytes(&index.arena).len()).sum::<usize>());
                }
            }
        }
        for relation in 0..index.relations.len() as u32 {
            std::hint::black_box(view.counts(relation));
        }
    }
}

fn given(oid: u32, name: &str, kind: &str, fields: Vec<u32>) -> GivenType {
    let kind = TypeKind::parse(kind).expect("a kind that exists");
    GivenType { oid, name: name.to_owned(), kind, element: 0, fields, delimiter: b',' }
}

/// Whether the stream was refused, and what came of it before.
fn deliveries(frames: &[Vec<u8>], part_bytes: usize, batch_bytes: usize) -> (bool, Vec<Delivery>) {
    let spool = SpoolLimits { dir: env::temp_dir(), memory: 1 << 20, disk: 1 << 20 };
    let limits = Limits { protocol: 4, streaming: true, part_bytes, batch_bytes, spool };
    let mut assembler = Assembler::new(limits, 0, Arc::new(Budget::default()));
    let mut fed = || {
        for frame in frames {
            assembler.feed(frame)?;
            while assembler.replaying() {
                assembler.replay(usize::MAX)?;
            }
        }
        Ok::<(), walcast_core::assembler::Error>(())
    };
    let refused = fed().is_err();
    if refused {
        assembler.drop_open();
    }
    assembler.seal();
    (refused, std::iter::from_fn(|| assembler.pop()).collect())
}

/// splitmix64: small, and the same everywhere.
struct Draw(u64);

impl Draw {
    fn new(seed: u64, number: u64) -> Draw {
        let mut draw = Draw(seed);
        Draw(draw.next() ^ number.wrapping_mul(0xA24B_AED4_963E_E407))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Some frames lost, doubled, swapped, of random bytes, or with other bytes in them.
    fn damage_frames(&mut self, correct: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut damaged = correct.to_vec();
        for _ in 0..[1, 1, 1, 2, 4][self.below(5)] {
            let (at, other) = (self.below(damaged.len()), self.below(damaged.len()));
            match self.below(9) {
                0 => damaged.insert(at, damaged[other].clone()),
                1 if damaged.len() > 1 => drop(damaged.remove(at)),
                2 => damaged.swap(at, other),
                3 => damaged[at] = (0..self.below(64)).map(|_| self.next() as u8).collect(),
                _ => damaged[at] = self.damage(std::mem::take(&mut damaged[at])),
            }
        }
        damaged
    }

    fn damage(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..[1, 1, 2, 5][self.below(4)] {
            let at = self.below(bytes.len() + 1);
            let end = |n: usize| (at + n).min(bytes.len());
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => {
                    let more: Vec<u8> = (0..1 + self.below(8)).map(|_| self.next() as u8).collect();
                    bytes.splice(at..at, more);
                }
                2 => drop(bytes.drain(at..end(1 + self.below(4)))),
                3 => drop(bytes.splice(at..end(1), [self.next() as u8])),
                4 => {
                    let size = [1, 2, 4][self.below(3)];
                    let extreme = EXTREMES[self.below(EXTREMES.len())].to_be_bytes();
                    bytes.splice(at..end(size), extreme[4 - size..].iter().copied());
                }
                _ => match bytes.get_mut(at) {
                    Some(byte) => *byte ^= 1 << self.below(8),
                    None => bytes.push(1 << self.below(8)),
                },
            }
        }
        bytes
    }
}

/// The most memory that the process has had, bytes (Linux; elsewhere 0).
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) << 10
}
