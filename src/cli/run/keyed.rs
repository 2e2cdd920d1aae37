//! What makes a run keyed: a `process` function with state per key.

use std::path::PathBuf;
use std::time::Duration;

use arrow_array::{Array, RecordBatch};
use arrow_schema::SchemaRef;
use clap::Args;
use pillion::KeyedOptions;
use pillion::batch::event_times;
use pillion::config::units::parse_duration;
use pillion::host::{FunctionDescription, OnError};

use super::bind;
use super::durable::DurableArgs;
use crate::cli::failure::Failure;

/// The side output of rows that raised.
const ERRORS: &str = "pillion.errors";

/// Options of functions that keep state.
#[derive(Debug, Args)]
#[command(next_help_heading = "State")]
pub struct KeyedArgs {
    /// Columns by which the function keeps its state apart
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',')]
    key_by: Option<Vec<String>>,

    /// Column with the event time: a timestamp, a date, or integer milliseconds since the epoch
    #[arg(long, value_name = "COLUMN")]
    event_time: Option<String>,

    /// How late a row may come: the watermark stays this far behind the latest event time
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "0s", requires = "event_time")]
    watermark_delay: Duration,

    /// Where to write a side output of the function; may be given several times
    #[arg(long = "side", value_name = "TAG=FILE", value_parser = parse_side)]
    sides: Vec<(String, PathBuf)>,

    #[command(flatten)]
    pub durable: DurableArgs,
}

fn parse_side(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((tag, file)) if !tag.is_empty() && !file.is_empty() => Ok((tag.to_owned(), PathBuf::from(file))),
        _ => Err("write `TAG=FILE`".to_owned()),
    }
}

impl KeyedArgs {
    /// Whether something was asked for that only functions with state have.
    fn flag(&self) -> Option<&'static str> {
        let flags = [("--key-by", self.key_by.is_some()), ("--event-time", self.event_time.is_some()), ("--side", !self.sides.is_empty())];
        flags.iter().find(|(_, given)| *given).map(|(flag, _)| *flag).or_else(|| self.durable.flag())
    }

    /// Side outputs and their files.
    ///
    /// # Errors
    /// A tag that is given twice.
    pub fn sides(&self) -> Result<&[(String, PathBuf)], Failure> {
        for (at, (tag, _)) in self.sides.iter().enumerate() {
            if self.sides[..at].iter().any(|(known, _)| known == tag) {
                return Err(Failure::usage(format!("the side output `{tag}` is given two files")));
            }
        }
        Ok(&self.sides)
    }

    /// Key columns.
    pub fn key_by(&self) -> &[String] {
        self.key_by.as_deref().unwrap_or_default()
    }

    /// Column with the event time.
    pub fn event_time(&self) -> Option<&str> {
        self.event_time.as_deref()
    }

    /// How the function is run; `None` if it keeps no state.
    ///
    /// # Errors
    /// Flags that do not fit the function, columns and side outputs that there are not.
    pub fn bind(&self, function: &FunctionDescription, input: &SchemaRef, on_error: OnError) -> Result<Option<Keyed>, Failure> {
        if function.kind != "process" {
            return match self.flag() {
                None => Ok(None),
                Some(flag) => {
                    let text = format!(
                        "`{flag}` does not go with the {} function `{}`, which keeps no state",
                        function.kind,
                        bind::own_name(function)
                    );
                    Err(Failure::usage(text).hint("derive the function from `KeyedProcessFunction`, or leave the flag out"))
                }
            };
        }
        for key in self.key_by() {
            bind::column(input, key)?;
        }
        let event_time = self.event_time.as_ref().map(|name| bind::column(input, name)).transpose()?;
        let errors = |tag: &str| on_error == OnError::Side && tag == ERRORS;
        if on_error == OnError::Side && !self.sides.iter().any(|(tag, _)| tag == ERRORS) {
            return Err(
                Failure::usage("the rows that `--on-error side` puts aside have no file").hint(format!("add `--side {ERRORS}=FILE`"))
            );
        }
        if let Some((tag, _)) =
            self.sides.iter().find(|(tag, _)| !errors(tag) && !function.side_outputs.iter().any(|(known, _)| known == tag))
        {
            let known: Vec<_> = function.side_outputs.iter().map(|(tag, _)| format!("`{tag}`")).collect();
            let hint = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
            return Err(Failure::usage(format!("`{}` has no side output `{tag}`", bind::own_name(function))).hint(hint));
        }
        let mut options = KeyedOptions { event_time: self.event_time.clone(), ..KeyedOptions::by(self.key_by()) };
        self.durable.add_to(&mut options);
        let delay_ms = i64::try_from(self.watermark_delay.as_millis()).unwrap_or(i64::MAX);
        Ok(Some(Keyed { options, watermarks: event_time.map(|column| Watermarks { column, delay_ms, latest: i64::MIN }) }))
    }
}

/// A keyed run.
pub struct Keyed {
    pub options: KeyedOptions,
    pub watermarks: Option<Watermarks>,
}

/// Follows the event time of what is sent.
pub struct Watermarks {
    column: usize,
    delay_ms: i64,
    latest: i64,
}

impl Watermarks {
    /// The last watermark, if there is one.
    pub fn reached(&self) -> Option<i64> {
        (self.latest > i64::MIN).then_some(self.latest)
    }

    /// Goes on where an earlier run stood.
    pub fn resume(&mut self, watermark_ms: Option<i64>) {
        self.latest = watermark_ms.unwrap_or(i64::MIN);
    }

    /// The watermark behind a batch, if it goes on: no row is expected that is earlier.
    ///
    /// # Errors
    /// A time that does not fit milliseconds.
    pub fn after(&mut self, batch: &RecordBatch) -> Result<Option<i64>, Failure> {
        let name = batch.schema_ref().field(self.column).name().clone();
        let times = event_times(&name, batch.column(self.column))?;
        let latest = (0..times.len()).filter(|&row| times.is_valid(row)).map(|row| times.value(row)).max();
        // Rows of the latest time itself may follow.
        let Some(watermark) = latest.map(|latest| latest.saturating_sub(self.delay_ms).saturating_sub(1)) else { return Ok(None) };
        let goes_on = watermark > self.latest;
        self.latest = self.latest.max(watermark);
        Ok(goes_on.then_some(watermark))
    }
}
