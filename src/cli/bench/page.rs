//! The figures as a page: one file, no script, nothing from a network, light or dark as its reader has it.

use std::fmt::Write;

use super::chart::{Bar, Frame, Line, Point, bars, escape, lines};
use super::report::{Latency, Measured, Report, Stages};
use super::table::{heading, micros, rate, stage_size};
use super::variant::{Door, Mode, Transport};
use crate::cli::progress::count;

const STYLE: &str = include_str!("page.css");

/// The page.
pub fn html(report: &Report) -> String {
    let (first, second) = heading(report);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>pillion bench</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>pillion bench</h1>\n<p class=\"what\">{}<br>{}</p>\n",
        escape(&first),
        escape(&second)
    );
    advice(&mut page, report);
    latency(&mut page, report);
    throughput(&mut page, report);
    stages(&mut page, report);
    absent(&mut page, report);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn advice(page: &mut String, report: &Report) {
    let Some(advice) = &report.advice else { return };
    let size = count(advice.batch_rows as u64);
    let _ = writeln!(page, "<section class=\"advice\">\n<h2>Recommended: {}, batches of {size} rows</h2>\n<ul>", escape(&advice.variant));
    for reason in &advice.reasons {
        let _ = writeln!(page, "<li>{}</li>", escape(reason));
    }
    page.push_str("</ul>\n</section>\n");
}

/// The class of a variant's lines: a colour for mode and transport, dashes for a sidecar.
fn class(variant: &Measured) -> String {
    let colour = match (variant.variant.mode, variant.variant.transport) {
        (_, Transport::Here) => "here",
        (Mode::Thread, _) => "thread",
        (_, Transport::Shm) => "shm",
        _ => "inline",
    };
    let dashes = if variant.variant.door == Door::Connect { " connect" } else { "" };
    format!("series {colour}{dashes}")
}

fn legend(page: &mut String, lines: &[Line]) {
    page.push_str("<ul class=\"legend\">\n");
    for line in lines {
        let _ = writeln!(
            page,
            "<li><svg viewBox=\"0 0 28 10\" aria-hidden=\"true\"><g class=\"{}\"><polyline points=\"0,5 28,5\"/></g></svg>{}</li>",
            line.class,
            escape(&line.name)
        );
    }
    page.push_str("</ul>\n");
}

/// `1 M` for `1.00 M`.
fn round(figure: &str) -> String {
    figure.replace(".00", "").replace(".0", "")
}

/// `1 row`, `1,000 rows`.
fn rows(number: usize) -> String {
    format!("{} row{}", count(number as u64), if number == 1 { "" } else { "s" })
}

/// Where a percentile stands on the axis: each nine takes the same room.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).max(1e-9).log10()
}

fn latency(page: &mut String, report: &Report) {
    let line = |variant: &Measured| {
        let point = |&(percentile, us): &(f64, f64)| Point {
            x: nines(percentile),
            y: us,
            range: None,
            label: format!("{}: {percentile} % within {}", variant.name, micros(us)),
        };
        Line { name: variant.name.clone(), class: class(variant), points: variant.latency.curve.iter().map(point).collect() }
    };
    let all: Vec<Line> = report.variants.iter().map(line).collect();
    let most = report.variants.iter().filter_map(|variant| variant.latency.curve.last()).map(|point| point.0).fold(0.0, f64::max);
    let ticks = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99].into_iter().filter(|&tick| tick <= most.max(90.0));
    let frame = Frame {
        id: "latency",
        title: "Latency of one row",
        description: "Round trip of one row, one at a time, by percentile; the figures are in the table below",
        x_title: "percentile of the round trips",
        y_title: "round trip",
        x_ticks: ticks.map(|tick| (nines(tick), format!("{tick}"))).collect(),
        y_label: |us| round(&micros(us)),
    };
    page.push_str("<section>\n<h2>Latency of one row</h2>\n<p>One row at a time, each waited for. Each step to the right leaves out ten times fewer.</p>\n");
    legend(page, &all);
    page.push_str(&lines(&frame, &all));
    page.push_str("\n<table>\n<caption>Round trip of one row</caption>\n<tr><th scope=\"col\">variant</th>");
    for head in ["round trips", "mean", "p50", "p99", "p99.9", "longest", "start"] {
        let _ = write!(page, "<th scope=\"col\">{head}</th>");
    }
    page.push_str("</tr>\n");
    for variant in &report.variants {
        let Latency { mean_us, p50_us, p99_us, p999_us, max_us, .. } = variant.latency;
        let _ = write!(page, "<tr><th scope=\"row\">{}</th><td>{}</td>", escape(&variant.name), count(variant.latency.count));
        for us in [mean_us, p50_us, p99_us, p999_us, max_us, variant.start_ms * 1e3] {
            let _ = write!(page, "<td>{}</td>", micros(us));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n</section>\n");
}

fn throughput(page: &mut String, report: &Report) {
    let line = |variant: &Measured| {
        let points = variant.sizes.iter().filter_map(|size| {
            let result = size.result.as_ref()?;
            let label =
                format!("{}: {} rows/s with batches of {} rows", variant.name, rate(result.rows_per_second), count(size.rows as u64));
            Some(Point { x: (size.rows as f64).log10(), y: result.rows_per_second, range: Some((result.low, result.high)), label })
        });
        Line { name: variant.name.clone(), class: class(variant), points: points.collect() }
    };
    let all: Vec<Line> = report.variants.iter().map(line).collect();
    let sizes = report.variants.first().map(|variant| variant.sizes.as_slice()).unwrap_or_default();
    let frame = Frame {
        id: "throughput",
        title: "Throughput by batch size",
        description: "Rows per second with batches under way one behind the other, by rows per batch; the figures are in the table below",
        x_title: "rows per batch",
        y_title: "rows per second",
        x_ticks: sizes.iter().map(|size| ((size.rows as f64).log10(), count(size.rows as u64))).collect(),
        y_label: |rows| round(&rate(rows)),
    };
    page.push_str("<section>\n<h2>Throughput by batch size</h2>\n<p>Batches sent as fast as they are taken. The upright strokes reach from the slowest round to the fastest.</p>\n");
    legend(page, &all);
    page.push_str(&lines(&frame, &all));
    page.push_str("\n<table>\n<caption>Rows per second, and bytes of arguments and results</caption>\n<tr><th scope=\"col\">variant</th>");
    for size in sizes {
        let _ = write!(page, "<th scope=\"col\">{}</th>", rows(size.rows));
    }
    page.push_str("</tr>\n");
    for variant in &report.variants {
        let _ = write!(page, "<tr><th scope=\"row\">{}</th>", escape(&variant.name));
        for size in &variant.sizes {
            match &size.result {
                Some(result) => {
                    let _ =
                        write!(page, "<td>{}/s<br><small>{}B/s</small></td>", rate(result.rows_per_second), rate(result.bytes_per_second));
                }
                None => {
                    let _ = write!(page, "<td title=\"{}\">–</td>", escape(size.skipped.as_deref().unwrap_or_default()));
                }
            }
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n</section>\n");
}

/// What each stage is, for people.
const STAGES: [(&str, &str); 5] = [
    ("queue", "waiting for a worker"),
    ("wire", "to the worker and back"),
    ("convert", "columns to Python's values and back"),
    ("user", "in the function itself"),
    ("host", "in the host, and to the sidecar if there is one"),
];

fn stages(page: &mut String, report: &Report) {
    page.push_str("<section>\n<h2>Where the time goes</h2>\n<p>One batch at a time, on average.</p>\n<ul class=\"legend\">\n");
    for (name, meaning) in STAGES {
        let _ = writeln!(
            page,
            "<li><svg viewBox=\"0 0 10 10\" aria-hidden=\"true\"><rect class=\"{name}\" width=\"10\" height=\"10\"/></svg>{name}: {meaning}</li>"
        );
    }
    page.push_str("</ul>\n");
    let advised = stage_size(report).filter(|&rows| rows > 1);
    for size in std::iter::once(1).chain(advised) {
        let all: Vec<Bar> = report.variants.iter().filter_map(|variant| Some(bar(&variant.name, variant.stages(size)?))).collect();
        let title = format!("A batch of {}", rows(size));
        let description: Vec<String> = all
            .iter()
            .map(|bar| format!("{}: {}", bar.name, bar.parts.iter().map(|part| part.2.clone()).collect::<Vec<_>>().join(", ")))
            .collect();
        let _ = writeln!(page, "<h3>{title}</h3>\n{}", bars(&format!("stages-{size}"), &title, &description.join("; "), &all));
    }
    page.push_str("</section>\n");
}

fn bar(name: &str, stages: Stages) -> Bar {
    let parts = Stages::NAMES.iter().zip(stages.parts()).map(|(stage, us)| ((*stage).to_owned(), us, format!("{stage} {}", micros(us))));
    Bar { name: name.to_owned(), parts: parts.collect(), total: micros(stages.total()) }
}

fn absent(page: &mut String, report: &Report) {
    if !report.absent.is_empty() {
        page.push_str("<section>\n<h2>Not measured</h2>\n<ul>\n");
        for absent in &report.absent {
            let hint = absent.hint.as_ref().map(|hint| format!("<br><small>hint: {}</small>", escape(hint))).unwrap_or_default();
            let _ = writeln!(
                page,
                "<li><b>{}</b>: {} (<code>{}</code>){hint}</li>",
                escape(&absent.name),
                escape(&absent.reason),
                escape(&absent.code)
            );
        }
        page.push_str("</ul>\n</section>\n");
    }
    for note in &report.notes {
        let _ = writeln!(page, "<p class=\"note\">{}</p>", escape(note));
    }
}
