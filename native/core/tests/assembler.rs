//! What goes in comes out once, in order, however it is cut, streamed or spooled; and no bytes whatever do harm.

use proptest::prelude::*;
use walcast_core::assembler::{Error, Fed};

mod stream;

/// PROPTEST_CASES asks for more; the suite is content with fewer than proptest's 256.
fn config() -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig { failure_persistence: None, ..ProptestConfig::default() },
        None => ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() },
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn streams_reassemble_however_they_are_cut(
        transactions in stream::transactions(),
        streaming in any::<bool>(),
        part in prop_oneof![Just(1usize), 100..5000usize, Just(1 << 30)],
        batch in prop_oneof![Just(1usize), 100..5000usize, Just(1 << 30)],
        memory in prop_oneof![Just(0usize), 10..2000usize, Just(1 << 20)],
    ) {
        let sent = stream::Walsender::new(&transactions, streaming);
        let mut assembler = stream::assembler(part, batch, memory);
        let deliveries = stream::run(&mut assembler, &sent.frames).expect("a valid stream");
        prop_assert_eq!(stream::lines(&deliveries), sent.expected);
        prop_assert_eq!(assembler.idle(), Some(sent.through));
        prop_assert_eq!(assembler.spooled(), 0);
    }

    #[test]
    fn sealing_at_any_moment_changes_nothing(transactions in stream::transactions(), every in 1..7usize) {
        let sent = stream::Walsender::new(&transactions, true);
        let mut assembler = stream::assembler(1 << 30, 1 << 30, 500);
        let mut deliveries = Vec::new();
        for (n, frame) in sent.frames.iter().enumerate() {
            assembler.feed(frame).expect("a valid stream");
            while assembler.replaying() {
                assembler.replay(64).expect("a valid stream");
                assembler.seal();
            }
            if n % every == 0 {
                assembler.seal();
            }
            deliveries.extend(std::iter::from_fn(|| assembler.pop()));
        }
        assembler.seal();
        deliveries.extend(std::iter::from_fn(|| assembler.pop()));
        prop_assert_eq!(stream::lines(&deliveries), sent.expected);
    }

    #[test]
    fn damaged_streams_end_in_a_fault_or_in_other_values_but_never_in_a_panic(
        transactions in stream::transactions(),
        wounds in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..8u8, any::<u8>()), 1..6),
        part in prop_oneof![Just(1usize), Just(1 << 30)],
    ) {
        let mut frames = stream::Walsender::new(&transactions, true).frames;
        for (which, place, how, byte) in wounds {
            if frames.iter().any(Vec::is_empty) || frames.is_empty() {
                break;
            }
            let n = which.index(frames.len());
            let at = place.index(frames[n].len());
            match how {
                0 => frames[n].truncate(at),
                1 => frames[n][at] ^= byte,
                2 => frames[n][at] = byte,
                3 => frames[n].insert(at, byte),
                4 => { frames.remove(n); }
                5 => { let twin = frames[n].clone(); frames.insert(n, twin) }
                6 => { let other = which.index(frames.len() / 2 + 1); frames.swap(n, other) }
                // A count or length that nothing can back.
                _ => {
                    let hostile = [u32::MAX, 1 << 30, (1 << 30) - 1, 0x7fff_ffff][byte as usize % 4].to_be_bytes();
                    for (slot, byte) in frames[n][at..].iter_mut().zip(hostile) {
                        *slot = byte;
                    }
                }
            }
        }
        let size: usize = frames.iter().map(Vec::len).sum();
        let mut assembler = stream::assembler(part, 2000, 200);
        match stream::run(&mut assembler, &frames) {
            Ok(deliveries) => {
                let held: usize = deliveries.iter().map(|d| d.index.arena.len()).sum();
                prop_assert!(held <= size);
            }
            Err(Error::Fault(fault)) => prop_assert!(fault.offset <= frames.iter().map(Vec::len).max().unwrap_or(0)),
            Err(other) => prop_assert!(false, "{other}"),
        }
        // Whatever happened, what was whole before can still be had.
        assembler.drop_open();
        assembler.seal();
        while let Some(delivery) = assembler.pop() {
            for entry in &delivery.index.entries {
                prop_assert!((entry.transaction as usize) < delivery.index.transactions.len());
            }
        }
    }

    #[test]
    fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), tag in 0..30usize) {
        let mut frame = [&b"w"[..], &[0; 24], &[b"BCORYIUDTMSEcAbPKrp"[tag % 19]], &bytes].concat();
        if tag > 18 {
            frame = bytes;
        }
        let _ = stream::assembler(100, 100, 100).feed(&frame);
    }
}

fn feed(frames: &[&[u8]]) -> Result<Fed, Error> {
    let mut assembler = stream::assembler(1 << 20, 1 << 20, 1 << 20);
    let mut last = Ok(Fed::Data { lsn: 0 });
    for message in frames {
        last = Ok(assembler.feed(&[&b"w"[..], &[0; 24], message].concat())?);
    }
    last
}

fn fault(frames: &[&[u8]]) -> (String, usize) {
    match feed(frames) {
        Err(Error::Fault(fault)) => (fault.message.into_owned(), fault.offset),
        other => panic!("no fault but {other:?}"),
    }
}

const BEGIN: &[u8] = b"B\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x07";
const RELATION: &[u8] = b"R\0\0\0\x01public\0t\0d\0\x01\x01id\0\0\0\0\x17\xff\xff\xff\xff";

#[test]
fn faults_say_what_and_where() {
    assert_eq!(fault(&[b"X"]), ("unknown message 'X'".into(), 25));
    assert_eq!(fault(&[b"B\0\0"]), ("the message ends early".into(), 28));
    let unknown = ("a change of relation 1, which was not announced".into(), 25);
    assert_eq!(fault(&[BEGIN, b"I\0\0\0\x01N\0\0"]), unknown);
    let (message, at) = fault(&[BEGIN, RELATION, b"I\0\0\0\x01N\x7f\xff"]);
    assert_eq!((message.as_str(), at), ("a tuple of 32767 columns, the relation has 1", 31));
    let (message, at) = fault(&[BEGIN, RELATION, b"I\0\0\0\x01N\0\x01b\xff\xff\xff\xff"]);
    assert_eq!((message.as_str(), at), ("a length that no value can have", 34));
    let (message, _) = fault(&[BEGIN, RELATION, b"I\0\0\0\x01N\0\x01b\0\0\0\x09short"]);
    assert_eq!(message, "the message ends early");
    let (message, at) = fault(&[BEGIN, RELATION, b"I\0\0\0\x01N\0\x01nmore"]);
    assert_eq!((message.as_str(), at), ("4 bytes too many", 34));
    assert_eq!(fault(&[BEGIN, b"T\xff\xff\xff\xff\0"]).0, "a truncate whose count of relations is not what follows");
}

#[test]
fn two_phase_messages_are_refused_by_name() {
    for tag in [b"b", b"P", b"K", b"r", b"p"] {
        assert!(fault(&[tag]).0.contains("TWO_PHASE"), "{tag:?}");
    }
}

#[test]
fn messages_out_of_order_are_faults() {
    let commit: &[u8] = b"C\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0";
    let elsewhere: &[u8] = b"C\0\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0\0";
    let start: &[u8] = b"S\0\0\0\x09\x01";
    assert!(fault(&[commit]).0.contains("outside"));
    assert!(fault(&[BEGIN, BEGIN]).0.contains("inside"));
    assert!(fault(&[BEGIN, elsewhere]).0.contains("another LSN"));
    assert!(fault(&[RELATION, b"I\0\0\0\x01N\0\x01n"]).0.contains("outside"));
    assert!(fault(&[b"E"]).0.contains("outside"));
    assert!(fault(&[start, start]).0.contains("stream block"));
    assert!(fault(&[start, b"E", start]).0.contains("out of order"));
    assert!(fault(&[BEGIN, start]).0.contains("out of order"));
    assert!(feed(&[BEGIN, RELATION, b"I\0\0\0\x01N\0\x01n", commit]).is_ok());
}

#[test]
fn relations_that_share_a_name_never_share_a_batch() {
    let other: &[u8] = b"R\0\0\0\x02public\0t\0d\0\x01\x01id\0\0\0\0\x17\xff\xff\xff\xff";
    let truncate: &[u8] = b"T\0\0\0\x02\0\0\0\0\x01\0\0\0\x02";
    let commit: &[u8] = b"C\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0";
    let mut assembler = stream::assembler(1 << 20, 1 << 20, 1 << 20);
    let frames = [BEGIN, RELATION, other, truncate, b"I\0\0\0\x01N\0\x01n", commit];
    let frames: Vec<Vec<u8>> = frames.map(|message| [&b"w"[..], &[0; 24], message].concat()).into();
    let deliveries = stream::run(&mut assembler, &frames).expect("a valid stream");
    let oids = |n: usize| deliveries[n].index.relations.iter().map(|r| r.oid).collect::<Vec<_>>();
    assert_eq!((deliveries.len(), oids(0), oids(1), oids(2)), (3, vec![1], vec![2], vec![1]));
    assert_eq!(deliveries[2].part, Some((2, true)));
}
