//! The figures as a table for the terminal.

use std::fmt::Write;

use super::report::{Measured, Report, Size, Stages};
use crate::cli::progress::count;

/// Microseconds in two or three figures: `118 µs`, `3.4 ms`, `1.2 s`.
pub fn micros(us: f64) -> String {
    match us {
        _ if us < 9.95 => format!("{us:.1} µs"),
        _ if us < 999.5 => format!("{us:.0} µs"),
        _ if us < 9_950.0 => format!("{:.1} ms", us / 1e3),
        _ if us < 999_500.0 => format!("{:.0} ms", us / 1e3),
        _ => format!("{:.1} s", us / 1e6),
    }
}

/// A number per second in three figures: `950`, `42.1 k`, `31.6 M`.
pub fn rate(number: f64) -> String {
    let scaled = |value: f64, unit: &str| match value {
        _ if value < 9.995 => format!("{value:.2}{unit}"),
        _ if value < 99.95 => format!("{value:.1}{unit}"),
        _ => format!("{value:.0}{unit}"),
    };
    match number {
        _ if number < 999.5 => scaled(number, ""),
        _ if number < 999_500.0 => scaled(number / 1e3, " k"),
        _ if number < 999.5e6 => scaled(number / 1e6, " M"),
        _ => scaled(number / 1e9, " G"),
    }
}

/// What was measured, on what, in one or two lines.
pub fn heading(report: &Report) -> (String, String) {
    let function = &report.function;
    let mut first = format!("{} ({} {}), Python {}", function.name, function.func_type, function.kind, function.python);
    for package in &function.packages {
        first += &format!(", {package}");
    }
    let machine = &report.machine;
    let workers = if report.workers == 1 { "1 worker".to_owned() } else { format!("{} workers", report.workers) };
    let second = format!(
        "data {}; {} × {}, {}; {workers} per engine; pillion {}; {:.0} s",
        report.data, machine.cores, machine.cpu, machine.system, report.version, report.seconds
    );
    (first, second)
}

/// The size for which the stages are shown: the recommended one, else the largest that was measured.
pub fn stage_size(report: &Report) -> Option<usize> {
    let advised = report.advice.as_ref().map(|advice| advice.batch_rows);
    advised.or_else(|| report.variants.first()?.sizes.iter().rev().find(|size| size.result.is_some()).map(|size| size.rows))
}

/// Everything, for a terminal.
pub fn text(report: &Report) -> String {
    let (first, second) = heading(report);
    let mut text = format!("{first}\n{second}\n\n");
    let names = report.variants.iter().map(|variant| variant.name.chars().count()).max().unwrap_or_default();
    let sizes = report.variants.first().map(|variant| variant.sizes.as_slice()).unwrap_or_default();
    let _ = writeln!(
        text,
        "{:names$}  {:>29}  {:>width$}",
        "",
        "1 row, one at a time",
        "rows/s, by rows per batch",
        width = sizes.len() * 10 - 1
    );
    let _ = write!(text, "{:names$}  {:>9} {:>9} {:>9} ", "", "p50", "p99", "p99.9");
    for size in sizes {
        let _ = write!(text, " {:>9}", count(size.rows as u64));
    }
    let _ = writeln!(text, "  {:>9}", "best");
    for variant in &report.variants {
        row(&mut text, variant, names);
    }
    stages(&mut text, report, names);
    rest(&mut text, report);
    text
}

fn row(text: &mut String, variant: &Measured, names: usize) {
    let latency = &variant.latency;
    let _ = write!(text, "{:names$}  ", variant.name);
    for us in [latency.p50_us, latency.p99_us, latency.p999_us] {
        let _ = write!(text, "{:>9} ", micros(us));
    }
    for size in &variant.sizes {
        let shown = size.result.as_ref().map_or_else(|| "-".to_owned(), |result| rate(result.rows_per_second));
        let _ = write!(text, " {shown:>9}");
    }
    let best = variant.sizes.iter().filter_map(|size| size.result.as_ref()).map(|result| result.bytes_per_second).fold(0.0, f64::max);
    let _ = writeln!(text, "  {:>7}B/s", rate(best));
}

fn stages(text: &mut String, report: &Report, names: usize) {
    let Some(rows) = stage_size(report) else { return };
    let _ = write!(text, "\nwhere the time of one batch goes, one at a time:\n{:names$}   {:>8}", "", "rows");
    for name in Stages::NAMES {
        let _ = write!(text, " {name:>8}");
    }
    text.push('\n');
    let sizes = if rows == 1 { vec![1] } else { vec![1, rows] };
    for variant in &report.variants {
        for &rows in &sizes {
            let Some(stages) = variant.stages(rows) else { continue };
            let _ = write!(text, "{:names$}   {:>8}", variant.name, count(rows as u64));
            for us in stages.parts() {
                let _ = write!(text, " {:>8}", micros(us));
            }
            text.push('\n');
        }
    }
}

/// What was left out, and what to make of it.
fn rest(text: &mut String, report: &Report) {
    let skipped = report.variants.first().map(|variant| variant.sizes.as_slice()).unwrap_or_default();
    for (rows, reason) in skipped.iter().filter_map(|Size { rows, skipped, .. }| Some((rows, skipped.as_ref()?))) {
        let _ = writeln!(text, "\nbatches of {} rows were not measured: {reason}", count(*rows as u64));
    }
    if !report.absent.is_empty() {
        text.push_str("\nnot measured:\n");
    }
    for absent in &report.absent {
        let _ = writeln!(text, "  {}: {} ({})", absent.name, absent.reason, absent.code);
        if let Some(hint) = &absent.hint {
            let _ = writeln!(text, "    hint: {hint}");
        }
    }
    for note in &report.notes {
        let _ = writeln!(text, "\nnote: {note}");
    }
    if let Some(advice) = &report.advice {
        let _ = writeln!(text, "\nrecommended: {}, batches of {} rows", advice.variant, count(advice.batch_rows as u64));
        for reason in &advice.reasons {
            let _ = writeln!(text, "  - {reason}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!([1.23, 118.4, 3_440.0, 45_000.0, 1_200_000.0].map(micros), ["1.2 µs", "118 µs", "3.4 ms", "45 ms", "1.2 s"]);
        assert_eq!([9.5, 950.0, 42_100.0, 31.6e6, 1.25e9].map(rate), ["9.50", "950", "42.1 k", "31.6 M", "1.25 G"]);
    }
}
