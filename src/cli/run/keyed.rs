//! What makes a run keyed: a `process` function with state per key.

use std::path::PathBuf;
use std::time::Duration;

use arrow_array::{Array, RecordBatch};
use arrow_schema::SchemaRef;
use clap::Args;
use pillion::KeyedOptions;
use pillion::batch::event_times;
use pillion::config::units::parse_duration;
use pillion::host::FunctionDescription;

use super::bind;
use crate::cli::failure::Failure;
use crate::cli::io::Target;

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
        flags.iter().find(|(_, given)| *given).map(|(flag, _)| *flag)
    }

    /// The files of side outputs, reserved.
    ///
    /// # Errors
    /// As [`Target::reserve`]; a tag that is given twice.
    pub fn targets(&self) -> Result<Vec<(String, Target)>, Failure> {
        let mut targets: Vec<(String, Target)> = Vec::new();
        for (tag, file) in &self.sides {
            if targets.iter().any(|(known, _)| known == tag) {
                return Err(Failure::usage(format!("the side output `{tag}` is given two files")));
            }
            targets.push((tag.clone(), Target::reserve(file)?));
        }
        Ok(targets)
    }

    /// How the function is run; `None` if it keeps no state.
    ///
    /// # Errors
    /// Flags that do not fit the function, columns and side outputs that there are not.
    pub fn bind(&self, function: &FunctionDescription, input: &SchemaRef) -> Result<Option<Keyed>, Failure> {
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
        let keys = self.key_by.clone().unwrap_or_default();
        for key in &keys {
            bind::column(input, key)?;
        }
        let event_time = self.event_time.as_ref().map(|name| bind::column(input, name)).transpose()?;
        if let Some((tag, _)) = self.sides.iter().find(|(tag, _)| !function.side_outputs.iter().any(|(known, _)| known == tag)) {
            let known: Vec<_> = function.side_outputs.iter().map(|(tag, _)| format!("`{tag}`")).collect();
            let hint = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
            return Err(Failure::usage(format!("`{}` has no side output `{tag}`", bind::own_name(function))).hint(hint));
        }
        let options = KeyedOptions { event_time: self.event_time.clone(), ..KeyedOptions::by(keys) };
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
