use super::*;
use crate::cli::bench::report::{Latency, Size, Stages, Throughput};
use crate::cli::bench::variant::Variant;

/// A variant behind the embedded door with this median latency, these rows per second, and this part of the time in user code.
fn measured(mode: Mode, transport: Transport, p50_us: f64, rates: &[(usize, f64)], user: f64) -> Measured {
    let variant = Variant { mode, transport, door: Door::Embedded };
    let stages = Stages { user_us: user * 100.0, wire_us: (1.0 - user) * 100.0, ..Stages::default() };
    let size = |&(rows, rows_per_second): &(usize, f64)| Size {
        rows,
        skipped: None,
        result: Some(Throughput { rows_per_second, low: 0.0, high: 0.0, bytes_per_second: 0.0, round_trip_us: 100.0, stages }),
    };
    let latency = Latency { count: 1, mean_us: p50_us, p50_us, p99_us: p50_us, p999_us: p50_us, max_us: p50_us, stages, curve: Vec::new() };
    Measured { name: variant.name(), variant, start_ms: 1.0, latency, sizes: rates.iter().map(size).collect() }
}

fn inline(p50: f64, rate: f64) -> Measured {
    measured(Mode::Process, Transport::Inline, p50, &[(1, 1e3), (1000, rate)], 0.2)
}

fn shm(p50: f64, rate: f64) -> Measured {
    measured(Mode::Process, Transport::Shm, p50, &[(1, 1e3), (1000, rate)], 0.2)
}

fn thread(p50: f64, rate: f64) -> Measured {
    measured(Mode::Thread, Transport::Auto, p50, &[(1, 1e3), (1000, rate)], 0.2)
}

#[test]
fn isolation_is_kept_unless_the_gain_is_worth_it() {
    let advice = advise(&[inline(100.0, 1e6), thread(80.0, 1.4e6)], 2).unwrap();
    assert_eq!(advice.mode, Mode::Process);
    assert!(advice.reasons[0].contains("40 % more throughput") && advice.reasons[0].contains("one worker"), "{:?}", advice.reasons);
    let advice = advise(&[inline(100.0, 1e6), thread(80.0, 3e6)], 2).unwrap();
    assert_eq!(advice.mode, Mode::Thread);
    assert!(advice.reasons[0].contains("3.0 times the throughput") && advice.reasons[0].contains("trust"), "{:?}", advice.reasons);
    let advice = advise(&[inline(100.0, 1e6), thread(20.0, 1e6)], 2).unwrap();
    assert_eq!(advice.mode, Mode::Thread);
    assert!(advice.reasons[0].contains("5.0 times the speed for one row"), "{:?}", advice.reasons);
}

#[test]
fn a_slow_function_stays_isolated() {
    let rates = [(1000, 1e3)];
    let slow = measured(Mode::Process, Transport::Inline, 1e4, &rates, 0.97);
    let advice = advise(&[slow, measured(Mode::Thread, Transport::Auto, 1e4, &rates, 0.99)], 2).unwrap();
    assert_eq!(advice.mode, Mode::Process);
    assert!(advice.reasons[0].contains("97 % of the time is spent in the function itself"), "{:?}", advice.reasons);
}

#[test]
fn shared_memory_is_taken_where_it_gains() {
    assert_eq!(advise(&[inline(100.0, 1e6), shm(100.0, 2e6)], 2).unwrap().transport, Transport::Shm);
    assert_eq!(advise(&[inline(100.0, 1e6), shm(50.0, 1e6)], 2).unwrap().transport, Transport::Shm);
    assert_eq!(advise(&[inline(100.0, 1e6), shm(99.0, 1.01e6)], 2).unwrap().transport, Transport::Inline);
}

#[test]
fn the_smallest_batch_near_the_best_is_taken() {
    let rates = [(1, 1e3), (100, 1e5), (1000, 0.89e6), (10_000, 0.91e6), (100_000, 1e6)];
    let advice = advise(&[measured(Mode::Process, Transport::Inline, 100.0, &rates, 0.2)], 2).unwrap();
    assert_eq!(advice.batch_rows, 10_000);
    assert!(advice.reasons[0].contains("91 %"), "{:?}", advice.reasons);
}

#[test]
fn one_variant_is_enough_and_none_is_not() {
    assert_eq!(advise(&[thread(10.0, 1e6)], 2).unwrap().mode, Mode::Thread);
    assert_eq!(advise(&[], 2), None);
    assert_eq!(advise(&[measured(Mode::Process, Transport::Inline, 100.0, &[], 0.2)], 2), None);
}

#[test]
fn without_an_embedded_row_the_sidecar_decides() {
    let connect = |mut measured: Measured| {
        measured.variant.door = Door::Connect;
        measured
    };
    let advice = advise(&[connect(inline(100.0, 1e6)), connect(thread(80.0, 3e6))], 2).unwrap();
    assert_eq!(advice.mode, Mode::Thread);
    let advice = advise(&[connect(thread(10.0, 9e6)), inline(100.0, 1e6)], 2).unwrap();
    assert_eq!(advice.mode, Mode::Process, "figures of one door are not compared with those of the other");
}
