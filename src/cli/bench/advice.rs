//! Which mode and batch size to use, and why: rules over the figures.
//!
//! Process mode is the default, because a function that crashes, hangs or grows costs only its worker there; another mode must earn its place.

use serde::Serialize;

use super::report::Measured;
use super::variant::{Door, Mode, Transport};
use crate::cli::progress::count;

/// The smallest batch with this part of the best throughput is large enough.
const ENOUGH: f64 = 0.9;
/// Thread mode is worth the isolation it gives up from this gain in throughput, or this cut of the median latency, on.
const WORTH_ISOLATION: f64 = 1.5;
/// Shared memory, which needs nothing given up, from this gain on; below, it is noise.
const WORTH_SHM: f64 = 1.05;
/// Where so much of a batch's time is the function's own, the mode hardly matters.
const MOSTLY_USER: f64 = 0.8;

/// A recommendation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// The name of the variant.
    pub variant: String,
    /// `process` or `thread`.
    pub mode: Mode,
    pub transport: Transport,
    pub batch_rows: usize,
    /// A sentence each.
    pub reasons: Vec<String>,
}

/// The best throughput of a variant, in rows per second.
fn best(measured: &Measured) -> f64 {
    measured.sizes.iter().filter_map(|size| size.result.as_ref()).map(|result| result.rows_per_second).fold(0.0, f64::max)
}

/// The smallest batch that is within [`ENOUGH`] of the best throughput, and its part of it.
fn enough(measured: &Measured) -> Option<(usize, f64)> {
    let best = best(measured);
    let found = measured.sizes.iter().find_map(|size| {
        let part = size.result.as_ref()?.rows_per_second / best;
        (part >= ENOUGH).then_some((size.rows, part))
    });
    found.filter(|_| best > 0.0)
}

/// The part of a batch's time that is spent in user code.
fn user_share(measured: &Measured, rows: usize) -> f64 {
    let result = measured.sizes.iter().find(|size| size.rows == rows).and_then(|size| size.result.as_ref());
    result.map_or(0.0, |result| result.stages.user_us / result.stages.total().max(f64::MIN_POSITIVE))
}

/// The larger of two gains in words: `1.7 times the throughput`, or `8 % more` where that says more.
fn gain(throughput: f64, latency: f64) -> String {
    let (factor, what) = if throughput >= latency { (throughput, "throughput") } else { (latency, "speed for one row") };
    match factor {
        _ if factor >= 1.5 => format!("{factor:.1} times the {what}"),
        _ if factor > 1.005 => format!("{:.0} % more {what}", (factor - 1.0) * 100.0),
        _ => "no gain".to_owned(),
    }
}

/// Advises on the variants behind one door: those embedded, if any was measured, since that is what this program's host would be, else the others.
pub fn advise(measured: &[Measured], cores: usize) -> Option<Advice> {
    let door = if measured.iter().any(|m| m.variant.door == Door::Embedded) { Door::Embedded } else { Door::Connect };
    let here = |mode: Mode, transport: Option<Transport>| {
        measured.iter().find(|m| {
            // Only some hosts can lend a thread: that variant is shown, and not recommended.
            let streams = m.variant.transport != Transport::Here;
            streams
                && m.variant.door == door
                && m.variant.mode == mode
                && transport.is_none_or(|transport| m.variant.transport == transport)
        })
    };
    let (inline, shm) = (here(Mode::Process, Some(Transport::Inline)), here(Mode::Process, Some(Transport::Shm)));
    let mut reasons = Vec::new();
    let process = match (inline, shm) {
        (Some(inline), Some(shm)) => Some(transport(inline, shm, &mut reasons)),
        (inline, shm) => shm.or(inline),
    };
    let chosen = match (process, here(Mode::Thread, None)) {
        (Some(process), Some(thread)) => mode(process, thread, cores, &mut reasons),
        (process, thread) => process.or(thread)?,
    };
    let (batch_rows, part) = enough(chosen)?;
    reasons.push(size_reason(chosen, batch_rows, part));
    Some(Advice { variant: chosen.name.clone(), mode: chosen.variant.mode, transport: chosen.variant.transport, batch_rows, reasons })
}

/// Inline or shared memory.
fn transport<'a>(inline: &'a Measured, shm: &'a Measured, reasons: &mut Vec<String>) -> &'a Measured {
    let throughput = best(shm) / best(inline).max(f64::MIN_POSITIVE);
    let latency = inline.latency.p50_us / shm.latency.p50_us.max(f64::MIN_POSITIVE);
    if throughput >= WORTH_SHM || latency >= WORTH_SHM {
        reasons.push(format!("shared memory gives {} over inline, and gives up no isolation", gain(throughput, latency)));
        shm
    } else {
        reasons.push("shared memory is no faster here: batches are small or the function is slow".to_owned());
        inline
    }
}

/// Process or thread.
fn mode<'a>(process: &'a Measured, thread: &'a Measured, cores: usize, reasons: &mut Vec<String>) -> &'a Measured {
    let throughput = best(thread) / best(process).max(f64::MIN_POSITIVE);
    let latency = process.latency.p50_us / thread.latency.p50_us.max(f64::MIN_POSITIVE);
    let share = enough(process).map_or(0.0, |(rows, _)| user_share(process, rows));
    let isolation = "a crash, a hang or too much memory costs one worker in process mode, and the whole engine in thread mode";
    if throughput.max(latency) < WORTH_ISOLATION {
        let why = match share {
            _ if share >= MOSTLY_USER => format!("{:.0} % of the time is spent in the function itself", share * 100.0),
            _ => format!("thread mode gives {}", gain(throughput, latency)),
        };
        reasons.push(format!("process mode: {why}, and {isolation}"));
        if cores > 1 {
            reasons
                .push(format!("more workers make process mode faster, up to the {cores} cores here; the GIL keeps thread mode from that"));
        }
        return process;
    }
    reasons.push(format!("thread mode gives {}, for functions that you trust: {isolation}", gain(throughput, latency)));
    if cores > 1 && throughput < cores as f64 {
        reasons
            .push(format!("{cores} workers of process mode may be as fast for large batches, where the function takes most of the time"));
    }
    thread
}

fn size_reason(chosen: &Measured, rows: usize, part: f64) -> String {
    let rate = best(chosen) * part;
    let wait = chosen.sizes.iter().find(|size| size.rows == rows).and_then(|size| size.result.as_ref()).map(|result| result.round_trip_us);
    let wait = wait.map(|us| format!("; such a batch takes {} there and back", super::table::micros(us))).unwrap_or_default();
    match part {
        _ if part >= 0.995 => {
            format!("batches of {} rows have the best throughput, {} rows/s{wait}", count(rows as u64), super::table::rate(rate))
        }
        _ => format!(
            "batches of {} rows are the smallest within 90 % of the best throughput: {:.0} % of it, {} rows/s{wait}",
            count(rows as u64),
            part * 100.0,
            super::table::rate(rate)
        ),
    }
}

#[cfg(test)]
#[path = "advice_tests.rs"]
mod tests;
