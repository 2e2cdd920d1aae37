//! `pillion run`: a function over a file.
//!
//! Three things overlap: a thread reads and cuts batches, the session runs them, another thread writes. Channels of a few batches between them,
//! and the session's credits, keep memory flat however long the input is.

pub mod bind;
mod commits;
pub mod cut;
mod drain;
mod durable;
mod flow;
mod keyed;
mod ledger;
pub mod plan;
mod summary;
mod writer;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow_schema::SchemaRef;
use clap::{Args, ValueEnum};
use pillion::config::Flags;
use pillion::config::units::parse_duration;
use pillion::host::OnError as OnRowError;
use pillion::{EnvironmentSpec, FunctionRef, Pillion, Session, SessionOptions};

use self::cut::{Cutter, Rule};
use self::durable::Durable;
use self::flow::Flow;
use self::keyed::KeyedArgs;
use self::plan::{Binding, Wish};
use self::writer::Destination;
use super::engine_args::{EngineArgs, function_ref};
use super::failure::Failure;
use super::io::{Commit, Folder, Input, ReadOptions, Target};
use super::progress::{Progress, say};
use super::signals::Signals;

/// Rows per batch unless told otherwise: enough that the cost of a call does not matter, little enough that progress shows.
const BATCH_ROWS: usize = 10_000;
/// Rows read at a time when batches are cut by something else than their number of rows.
const READ_ROWS: usize = 65_536;
/// Rows from which the types of CSV and JSON columns are inferred.
pub const INFER_ROWS: usize = 100_000;

/// Run a function over a file and write the result.
///
/// A scalar function gets the columns named like its parameters, and its result becomes a column. With `--where`, a boolean function keeps the
/// rows for which it is true. A map function gets all columns, and its rows replace the input's. A process function gets all columns, too, with state for each key
/// of `--key-by` and with timers; what it gives is the output.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The function: `path/file.py:name` or `module:name`
    #[arg(value_name = "FUNCTION")]
    function: String,

    /// Input: .csv, .parquet, .arrow, .feather, .arrows, .jsonl, .ndjson, or `-` for an Arrow IPC stream on standard input
    #[arg(long, short, value_name = "FILE")]
    input: PathBuf,

    /// Output, in the same formats; a file appears only when it is whole, and may be the input file
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,

    /// Columns for the function's parameters, in order [default: the columns with the parameters' names]
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',', help_heading = "Function")]
    args: Option<Vec<String>>,

    /// Column for the result; replaced if it exists, else added [default: the function's name]
    #[arg(long, value_name = "COLUMN", help_heading = "Function", conflicts_with = "keep_true")]
    into: Option<String>,

    /// Keep the rows for which the function is true
    #[arg(long = "where", help_heading = "Function")]
    keep_true: bool,

    /// When the function raises on a row: stop (`fail`), give null for it (`null`); of functions with state, leave it out (`skip`), or put it aside with its error (`side`, into `--side pillion.errors=FILE`)
    #[arg(long, value_enum, default_value_t = OnError::Fail, help_heading = "Function")]
    on_error: OnError,

    /// Longest time the function may take for one batch, such as `30s` [default: that of the configuration, 5m]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Function")]
    deadline: Option<Duration>,

    /// Most workers used at once [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..), help_heading = "Work")]
    workers: Option<usize>,

    /// Rows per batch, or `all` for one batch of everything [default: 10000]
    #[arg(long, value_name = "N|all", value_parser = parse_batch_rows, help_heading = "Work")]
    batch_rows: Option<BatchRows>,

    /// End batches only where the value of this column changes, so that functions see whole groups
    #[arg(long, value_name = "COLUMN", help_heading = "Work")]
    batch_by: Option<String>,

    /// Rows from which the types of CSV and JSON columns are inferred
    #[arg(long, value_name = "N", default_value_t = INFER_ROWS, help_heading = "Work")]
    infer_rows: usize,

    #[command(flatten)]
    keyed: KeyedArgs,

    #[command(flatten)]
    engine: EngineArgs,

    /// Show no progress and no summary, only errors
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnError {
    Fail,
    Null,
    Skip,
    Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BatchRows {
    Rows(usize),
    All,
}

fn parse_batch_rows(text: &str) -> Result<BatchRows, String> {
    match text.parse::<usize>() {
        _ if text == "all" => Ok(BatchRows::All),
        Ok(rows) if rows > 0 => Ok(BatchRows::Rows(rows)),
        _ => Err("write a number from 1, or `all`".to_owned()),
    }
}

/// Runs the command.
///
/// # Errors
/// Everything that can go wrong; then no output file is left.
pub async fn run(args: RunArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let mut signals = Signals::catch()?;
    let function = function_ref(&args.function)?;
    let environment = args.engine.environment()?;
    // What a person may have mistyped is looked at before anything that takes long.
    let mut input = Input::open(&args.input, args.read_options())?;
    let targets = args.targets()?;
    let mut flags = Flags::default();
    args.keyed.durable.set(&args.engine, &mut flags)?;
    let durable = args.durable(&targets).await?;
    if let Some(text) = durable.as_ref().and_then(Durable::text).filter(|_| !args.quiet) {
        say(&text);
    }
    let durable = match durable {
        Some(finished) if finished.is_finished() => return finished.begin().await.map(drop),
        other => other,
    };
    input.skip(durable.as_ref().map_or(0, Durable::rows));
    let cutter = Cutter::new(args.rule(&input)?, input.schema.clone());
    let pillion = args.engine.pillion(args.workers, flags).await?;
    let mut progress = Progress::new(args.quiet);
    let job = Job { args: &args, function, environment, started };
    let outcome = tokio::select! {
        caught = signals.caught() => Err(caught),
        outcome = job.work(&pillion, input, cutter, (targets, durable), &mut progress) => outcome,
    };
    drop(progress);
    // A second signal is not kept waiting by functions that close slowly.
    tokio::select! {
        _ = signals.caught() => {}
        () = pillion.shutdown() => {}
    }
    outcome
}

impl RunArgs {
    fn read_options(&self) -> ReadOptions {
        let batch_rows = match (self.batch_rows, &self.batch_by) {
            (Some(BatchRows::Rows(rows)), None) => rows,
            (None, None) => BATCH_ROWS,
            _ => READ_ROWS,
        };
        ReadOptions { batch_rows, infer_rows: self.infer_rows }
    }

    /// Where batches end.
    fn rule(&self, input: &Input) -> Result<Rule, Failure> {
        Ok(match (self.batch_rows, &self.batch_by) {
            (Some(BatchRows::All), _) => Rule::All,
            (Some(BatchRows::Rows(rows)), None) => Rule::Rows { rows, join: true },
            // Whoever writes a stream batch by batch may want its results batch by batch.
            (None, None) => Rule::Rows { rows: BATCH_ROWS, join: !input.has_batches },
            (Some(BatchRows::Rows(rows)), Some(name)) => Rule::Groups { column: bind::column(&input.schema, name)?, rows },
            (None, Some(name)) => Rule::Groups { column: bind::column(&input.schema, name)?, rows: 1 },
        })
    }

    /// Where results go, checked and reserved.
    fn targets(&self) -> Result<Targets, Failure> {
        let in_parts = self.keyed.durable.in_parts();
        let sides = self.keyed.sides()?.iter().map(|(tag, file)| Ok((tag.clone(), Place::reserve(file, in_parts)?)));
        Ok(Targets { main: Place::reserve(&self.output, in_parts)?, sides: sides.collect::<Result<_, Failure>>()? })
    }

    /// Where the run goes on, if it takes checkpoints.
    async fn durable(&self, targets: &Targets) -> Result<Option<Durable>, Failure> {
        let job = durable::job(&self.input, self.keyed.key_by(), self.keyed.event_time())?;
        let sides = targets.sides.iter().map(|(tag, place)| (Some(tag.clone()), place));
        let outputs = [(None, &targets.main)].into_iter().chain(sides);
        let outputs = outputs.filter_map(|(tag, place)| Some((tag, place.folder()?))).collect();
        self.keyed.durable.open(job, outputs).await
    }

    fn session_options(&self) -> SessionOptions {
        let on_error = match self.on_error {
            OnError::Fail => OnRowError::Fail,
            OnError::Null => OnRowError::Null,
            OnError::Skip => OnRowError::Skip,
            OnError::Side => OnRowError::Side,
        };
        SessionOptions { bundle_deadline: self.deadline, max_workers: self.workers, on_error, ..SessionOptions::default() }
    }
}

/// Where results go.
struct Targets {
    main: Place,
    /// By tag.
    sides: Vec<(String, Place)>,
}

/// The main output, side outputs by tag, and what has to be committed at the end.
type Started = (Destination, Vec<(String, Destination)>, Vec<Commit>);

impl Targets {
    /// Starts the outputs of a session.
    fn start(self, main: SchemaRef, session: &Session) -> Result<Started, Failure> {
        let (output, commit) = self.main.start(main)?;
        let (mut sides, mut commits) = (Vec::new(), Vec::from_iter(commit));
        for (tag, place) in self.sides {
            let known = session.functions().iter().flat_map(|function| &function.side_outputs).find(|(known, _)| *known == tag);
            let Some((_, schema)) = known else { continue };
            let (output, commit) = place.start(schema.clone())?;
            sides.push((tag, output));
            commits.extend(commit);
        }
        Ok((output, sides, commits))
    }
}

/// Where one output goes.
enum Place {
    File(Target),
    /// In parts.
    Folder(Folder),
}

impl Place {
    fn reserve(path: &Path, in_parts: bool) -> Result<Self, Failure> {
        if in_parts { Folder::new(path).map(Place::Folder) } else { Target::reserve(path).map(Place::File) }
    }

    fn folder(&self) -> Option<Folder> {
        match self {
            Place::File(_) => None,
            Place::Folder(folder) => Some(folder.clone()),
        }
    }

    /// Starts the output; a file has to be committed at the end.
    fn start(self, schema: SchemaRef) -> Result<(Destination, Option<Commit>), Failure> {
        Ok(match self {
            Place::Folder(folder) => (Destination::Parts(folder.start(schema)?), None),
            Place::File(target) => {
                let (output, commit) = target.start(schema)?;
                (Destination::Whole(output), Some(commit))
            }
        })
    }
}

/// What is known before the engine is asked.
struct Job<'a> {
    args: &'a RunArgs,
    function: FunctionRef,
    environment: EnvironmentSpec,
    started: Instant,
}

impl Job<'_> {
    async fn work(
        self,
        pillion: &Pillion,
        input: Input,
        cutter: Cutter,
        (targets, durable): (Targets, Option<Durable>),
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let args = self.args;
        let loading = args.engine.loading_text(&self.function);
        let described = progress.during(&loading, pillion.describe(&self.function, &self.environment)).await?;
        let keyed = args.keyed.bind(&described.function, &input.schema, args.session_options().on_error)?;
        let wish = Wish { args: args.args.as_deref(), into: args.into.as_deref(), filter: args.keep_true };
        let binding = Binding::new(self.function.clone(), &described.function, &input.schema, wish)?;
        let mut opening = pillion
            .session(binding.plan())
            .environment(self.environment)
            .input(binding.sent_schema())
            .options(args.session_options())
            .name(format!("run {}", self.function.name()));
        let is_keyed = keyed.is_some();
        let mut watermarks = None;
        if let Some(mut keyed) = keyed {
            if let Some(durable) = &durable {
                durable.add_to(&mut keyed.options);
                keyed.watermarks.iter_mut().for_each(|watermarks| watermarks.resume(durable.watermark_ms()));
            }
            opening = opening.keyed(keyed.options);
            watermarks = keyed.watermarks;
        }
        let session = progress.during(&loading, opening.open()).await?;
        let first_row = durable.as_ref().map_or(0, Durable::rows);
        let checkpoints = match durable {
            Some(durable) => Some(durable.begin().await?),
            None => None,
        };
        let assembly = binding.assembly(&session.output_schema())?;
        let (output, sides, commits) = targets.start(assembly.schema(), &session)?;
        let start = self.started.elapsed();

        progress.start(input.size.clone(), first_row);
        // Batches whose size nobody asked for may be cut smaller to fit.
        let may_split = args.batch_rows.is_none() && args.batch_by.is_none();
        let keyed = is_keyed;
        let flow = Flow { input, cutter, session, binding, assembly, output, sides, keyed, watermarks, may_split, first_row, checkpoints };
        let totals = flow.run(progress).await?;
        if totals.reader_gone {
            return Ok(());
        }
        for commit in commits {
            commit.commit()?;
        }
        if !args.quiet {
            say(&summary::text(&totals, start));
        }
        Ok(())
    }
}
