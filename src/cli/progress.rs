//! What a person sees while `run` works: a bar on a terminal, a line every few seconds elsewhere, nothing if asked for quiet.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::io::Size;

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How often the bar is drawn even if nothing happens.
const TICK: Duration = Duration::from_millis(120);
/// Steps of the bar itself.
const STEPS: u64 = 1000;

/// The bar on the screen, so that log lines can step aside for it.
static ON_SCREEN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// The progress of one command, on standard error.
pub struct Progress {
    shown: Shown,
    rows: u64,
    /// Rows that an earlier run has done.
    before: u64,
    size: Size,
    started: Instant,
    note: String,
}

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Progress {
    /// Progress in the form that fits standard error.
    pub fn new(quiet: bool) -> Self {
        let shown = if quiet {
            Shown::Nothing
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            *ON_SCREEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
            Shown::Bar(bar)
        } else {
            Shown::Lines { last: Instant::now() }
        };
        Self { shown, rows: 0, before: 0, size: Size::Unknown, started: Instant::now(), note: String::new() }
    }

    /// Shows `what` while `work` goes on: at once on a terminal, elsewhere if it takes long.
    pub async fn during<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        match &self.shown {
            Shown::Nothing => work.await,
            Shown::Bar(bar) => {
                bar.set_style(style("{spinner:.cyan} {msg} {elapsed:.dim}"));
                bar.set_message(what.to_owned());
                bar.enable_steady_tick(TICK);
                let result = work.await;
                bar.disable_steady_tick();
                bar.set_message("");
                result
            }
            Shown::Lines { .. } => {
                tokio::pin!(work);
                let mut waited = Duration::ZERO;
                loop {
                    match tokio::time::timeout(LINE_EVERY, &mut work).await {
                        Ok(result) => return result,
                        Err(_) => {
                            waited += LINE_EVERY;
                            say(&format!("{what} ({} s)", waited.as_secs()));
                        }
                    }
                }
            }
        }
    }

    /// Begins to count rows, of which an earlier run has done `before`.
    pub fn start(&mut self, size: Size, before: u64) {
        (self.size, self.before) = (size, before);
        self.started = Instant::now();
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                let template = match self.size {
                    Size::Unknown => "{spinner:.cyan} {msg} {elapsed:.dim}",
                    _ => "{spinner:.cyan} {bar:32.cyan/blue} {msg}",
                };
                bar.set_style(style(template));
                if !matches!(self.size, Size::Unknown) {
                    bar.set_length(STEPS);
                }
                bar.enable_steady_tick(TICK);
            }
            Shown::Lines { last } => *last = Instant::now(),
        }
        self.draw();
    }

    /// Counts rows whose results are there.
    pub fn add(&mut self, rows: u64) {
        self.rows += rows;
        self.draw();
    }

    /// What else is to be shown.
    pub fn note(&mut self, note: String) {
        self.note = note;
        self.draw();
    }

    /// Shows that `part` (0 to 1) is done and `what` comes next, of work that is not counted in rows.
    pub fn step(&mut self, part: f64, what: &str) {
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                bar.set_style(style("{spinner:.cyan} {bar:32.cyan/blue} {msg} {elapsed:.dim}"));
                bar.set_length(STEPS);
                bar.set_position((part * STEPS as f64) as u64);
                bar.set_message(what.to_owned());
                bar.enable_steady_tick(TICK);
            }
            Shown::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                say(&format!("{:.0}%: {what}", part * 100.0));
            }
            Shown::Lines { .. } => {}
        }
    }

    /// Shows where it stands; also to be called now and then while nothing happens.
    pub fn draw(&mut self) {
        let part = self.part();
        let mut text = line(self.rows, self.before, self.started.elapsed(), part);
        if !self.note.is_empty() {
            text += &format!(", {}", self.note);
        }
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                if let Some(part) = part {
                    bar.set_position((part * STEPS as f64) as u64);
                }
                bar.set_message(text);
            }
            Shown::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                say(&text);
            }
            Shown::Lines { .. } => {}
        }
    }

    /// How much is done, from 0 to 1, if it can be told.
    fn part(&self) -> Option<f64> {
        let part = match &self.size {
            Size::Rows(0) => 1.0,
            Size::Rows(total) => (self.before + self.rows) as f64 / *total as f64,
            // Reading runs ahead: of the part that is read, so much is done.
            Size::Bytes { total, read, rows } => {
                let (read, rows) = (read.load(Ordering::Relaxed) as f64, rows.load(Ordering::Relaxed) as f64);
                (read / (*total).max(1) as f64) * ((self.before + self.rows) as f64 / rows.max(1.0))
            }
            Size::Unknown => return None,
        };
        Some(part.min(1.0))
    }
}

impl Drop for Progress {
    /// Takes the bar off the screen.
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
            *ON_SCREEN.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// One line: rows, rows per second, part done, time left. `before` were done earlier.
fn line(rows: u64, before: u64, elapsed: Duration, part: Option<f64>) -> String {
    let seconds = elapsed.as_secs_f64();
    let mut text = format!("{} rows, {} rows/s", count(rows), count(rate(rows, elapsed)));
    if let Some(part) = part {
        text += &format!(", {:.0}%", part * 100.0);
        // Too early, an estimate would be a guess.
        if part > 0.01 && seconds > 0.5 && part < 1.0 {
            let now = part * rows.max(1) as f64 / (before + rows).max(1) as f64;
            text += &format!(", {} left", short(Duration::from_secs_f64(seconds * (1.0 - part) / now)));
        }
    }
    text
}

/// Rows per second; 0 for an instant.
pub fn rate(rows: u64, elapsed: Duration) -> u64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { (rows as f64 / seconds) as u64 } else { 0 }
}

/// A number with separators: `26,115`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in bytes: `812 B`, `1.2 MiB`.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// A duration in two figures: `480 ms`, `3.2 s`, `4 min 10 s`.
pub fn short(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        _ if seconds < 0.0095 => format!("{:.1} ms", seconds * 1000.0),
        _ if seconds < 0.995 => format!("{:.0} ms", seconds * 1000.0),
        _ if seconds < 59.95 => format!("{seconds:.1} s"),
        _ if seconds < 3600.0 => format!("{} min {} s", seconds as u64 / 60, seconds as u64 % 60),
        _ => format!("{} h {} min", seconds as u64 / 3600, seconds as u64 / 60 % 60),
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template that does not parse is a mistake of this file; the default bar shows progress all the same.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─")
}

/// Writes a line to standard error, above the bar if there is one. A closed standard error is nobody's concern here.
pub fn say(text: &str) {
    let _ = LogWriter.write_all(format!("{text}\n").as_bytes());
}

/// Standard error for whoever else writes to it: the bar steps aside while a line is written.
#[derive(Clone, Copy, Default)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let bar = ON_SCREEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match bar {
            Some(bar) => bar.suspend(|| io::stderr().write_all(text))?,
            None => io::stderr().write_all(text)?,
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_separators() {
        assert_eq!(
            ["0", "999", "1,000", "26,115", "10,000,000"],
            [0, 999, 1000, 26_115, 10_000_000].map(count).each_ref().map(String::as_str)
        );
    }

    #[test]
    fn durations_are_short() {
        let shown = |ms| short(Duration::from_millis(ms));
        assert_eq!(
            [shown(3), shown(480), shown(3200), shown(250_000), shown(3_725_000)],
            ["3.0 ms", "480 ms", "3.2 s", "4 min 10 s", "1 h 2 min"]
        );
    }

    #[test]
    fn a_line_tells_the_time_left() {
        assert_eq!(line(1000, 0, Duration::from_secs(2), Some(0.25)), "1,000 rows, 500 rows/s, 25%, 6.0 s left");
        assert_eq!(line(1000, 4000, Duration::from_secs(2), Some(0.5)), "1,000 rows, 500 rows/s, 50%, 10.0 s left");
        assert_eq!(line(1000, 0, Duration::from_secs(2), None), "1,000 rows, 500 rows/s");
        assert_eq!(line(1000, 0, Duration::from_secs(2), Some(1.0)), "1,000 rows, 500 rows/s, 100%");
    }
}
