//! What is said at the end of a run.

use std::time::Duration;

use super::flow::Totals;
use crate::cli::progress::{count, rate, short};

/// Rows, rows per second, and where the time went. `start` is the time before the first batch.
pub fn text(totals: &Totals, start: Duration) -> String {
    let mut text = format!(
        "{} rows in, {} rows out, {} in {} ({} rows/s)",
        count(totals.rows_in),
        count(totals.rows_out),
        counted(totals.batches, "batch", "batches"),
        short(totals.elapsed),
        count(rate(totals.rows_in, totals.elapsed)),
    );
    if !totals.filled.is_empty() {
        let filled: Vec<String> = totals.filled.iter().map(|(name, gaps)| format!("{name} {}", count(*gaps))).collect();
        text += &format!("\ngaps filled: {}", filled.join(", "));
    }
    if totals.retries > 0 {
        text += &format!("\n{}: workers died or hung, and their batches ran again", counted(totals.retries, "retry", "retries"));
    }
    for (tag, rows) in &totals.left_out {
        text += &format!("\nside output {tag}: {} not written; `--side {tag}=FILE` keeps them", counted(*rows, "row", "rows"));
    }
    let stages = [
        ("read", totals.read),
        ("wire", totals.wire),
        ("convert", totals.convert),
        ("user", totals.user),
        ("state", totals.state),
        ("write", totals.write),
    ];
    // Only functions with state have that stage.
    let stages: Vec<String> = stages.iter().filter(|(name, time)| *name != "state" || !time.is_zero()).map(|(name, time)| format!("{name} {}", short(*time))).collect();
    // The stages overlap, and several workers add up, so they are no parts of the whole. All batches in the queue wait at once: their sum says nothing.
    let queue = totals.queue / u32::try_from(totals.batches.max(1)).unwrap_or(u32::MAX);
    text + &format!("\ntime: start {}, {}; queue {} per batch", short(start), stages.join(", "), short(queue))
}

fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_rows_gaps_retries_and_times() {
        let totals = Totals {
            rows_in: 26_115,
            rows_out: 26_115,
            batches: 3,
            retries: 1,
            filled: vec![("pressure".into(), 2729)],
            elapsed: Duration::from_millis(500),
            user: Duration::from_millis(120),
            queue: Duration::from_secs(6),
            ..Totals::default()
        };
        let shown = text(&totals, Duration::from_secs(1));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "26,115 rows in, 26,115 rows out, 3 batches in 500 ms (52,230 rows/s)");
        assert_eq!(lines[1], "gaps filled: pressure 2,729");
        assert!(lines[2].starts_with("1 retry: "));
        assert!(
            lines[3].contains("start 1.0 s") && lines[3].contains("user 120 ms") && lines[3].ends_with("queue 2.0 s per batch"),
            "{}",
            lines[3]
        );
    }
}
