//! `pillion check`: what is this function, and does it work?

use std::fmt::Write;
use std::path::PathBuf;

use arrow_array::RecordBatch;
use arrow_select::concat::concat_batches;
use clap::Args;
use pillion::config::Flags;
use pillion::host::{Described, FunctionDescription};
use pillion::{EnvironmentSpec, Error, FunctionRef, KeyedOptions, Pillion};
use pillion_wire::ipc;

use super::engine_args::{EngineArgs, function_ref};
use super::failure::Failure;
use super::io::{Input, ReadOptions};
use super::progress::Progress;
use super::run::INFER_ROWS;
use super::run::bind::signature;
use super::run::cut::{Cutter, Rule};
use super::run::plan::{Binding, Wish};
use super::signals::Signals;
use super::table::{print, table};

/// Load a function and say what it is; with an input, try it on the first rows.
///
/// Prints kind, arguments, types and environment. Exits with 1 and says what is wrong, and where, if the function cannot be loaded or fails.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The function: `path/file.py:name` or `module:name`
    #[arg(value_name = "FUNCTION")]
    function: String,

    /// Try the function on the first rows of this file (formats as for `run`)
    #[arg(long, short, value_name = "FILE")]
    input: Option<PathBuf>,

    /// How many rows to try
    #[arg(long, value_name = "N", default_value_t = 10, requires = "input")]
    rows: usize,

    /// Columns for the function's parameters, in order [default: the columns with the parameters' names]
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',', requires = "input")]
    args: Option<Vec<String>>,

    /// Columns by which a function with state keeps it apart
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',', requires = "input")]
    key_by: Option<Vec<String>>,

    /// Column with the event time, for a function with timers
    #[arg(long, value_name = "COLUMN", requires = "input")]
    event_time: Option<String>,

    #[command(flatten)]
    engine: EngineArgs,
}

/// Runs the command; what it found goes to standard output.
///
/// # Errors
/// Whatever is wrong with the function, its environment or the input.
pub async fn check(args: CheckArgs) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let function = function_ref(&args.function)?;
    let environment = args.engine.environment()?;
    let options = ReadOptions { batch_rows: args.rows.max(1), infer_rows: INFER_ROWS };
    let input = args.input.as_deref().map(|path| Input::open(path, options)).transpose()?;
    let pillion = args.engine.pillion(Some(1), Flags::default()).await?;
    let outcome = tokio::select! {
        caught = signals.caught() => Err(caught),
        outcome = examine(&args, &pillion, &function, environment, input) => outcome,
    };
    tokio::select! {
        _ = signals.caught() => {}
        () = pillion.shutdown() => {}
    }
    outcome
}

async fn examine(
    args: &CheckArgs,
    pillion: &Pillion,
    function: &FunctionRef,
    environment: EnvironmentSpec,
    input: Option<Input>,
) -> Result<(), Failure> {
    let described = {
        let progress = Progress::new(false);
        progress.during(&args.engine.loading_text(function), pillion.describe(function, &environment)).await?
    };
    print(&description(&described))?;
    let Some(mut input) = input else { return Ok(()) };
    let wish = Wish { args: args.args.as_deref(), ..Wish::default() };
    let binding = Binding::new(function.clone(), &described.function, &input.schema, wish)?;
    let Some(batch) = first_rows(&mut input, args.rows)? else {
        return Err(Failure::data(format!("`{}` has no rows to try the function on", input.name())));
    };
    let keyed = (described.function.kind == "process")
        .then(|| KeyedOptions { event_time: args.event_time.clone(), ..KeyedOptions::by(args.key_by.iter().flatten()) });
    let output = try_on(pillion, &binding, environment, keyed, &batch).await.map_err(|error| {
        let place = error
            .exception()
            .and_then(|exception| exception.row.as_ref())
            .map(|row| format!("row {} of `{}`", row.index + 1, input.name()));
        Failure::Engine { error, place }
    })?;
    let (schema, result) = (output.0, output.1);
    let mut assembly = binding.assembly(&schema)?;
    let shown = assembly.assemble(&batch, result).map_err(|error| Failure::data(format!("the result cannot be shown: {error}")))?;
    let rows = batch.num_rows();
    print(&format!("\nthe first {rows} row{} of `{}`:\n{}", if rows == 1 { "" } else { "s" }, input.name(), table(&shown)?))
}

/// The first rows of the input as one batch; None if there are none.
fn first_rows(input: &mut Input, rows: usize) -> Result<Option<RecordBatch>, Failure> {
    let mut cutter = Cutter::new(Rule::Rows { rows: rows.max(1), join: true }, input.schema.clone());
    while let Some(batch) = input.next_batch() {
        cutter.push(batch?)?;
        if let Some(first) = cutter.pop() {
            return Ok(Some(first));
        }
    }
    cutter.finish()?;
    Ok(cutter.pop())
}

async fn try_on(
    pillion: &Pillion,
    binding: &Binding,
    environment: EnvironmentSpec,
    keyed: Option<KeyedOptions>,
    batch: &RecordBatch,
) -> Result<(arrow_schema::SchemaRef, RecordBatch), Error> {
    let mut opening = pillion.session(binding.plan()).environment(environment).input(binding.sent_schema()).name("check");
    let is_keyed = keyed.is_some();
    if let Some(keyed) = keyed {
        opening = opening.keyed(keyed);
    }
    let mut session = opening.open().await?;
    let schema = session.output_schema();
    let columns = binding.sent(batch).map_err(|error| Error::new(pillion::Code::InvariantBroken, error.to_string()))?;
    session.send(columns).await?;
    session.finish().await?;
    if is_keyed {
        // Any number of results; those of side outputs have columns of their own.
        let mut results = Vec::new();
        while let Some(result) = session.recv().await {
            let result = result?;
            results.extend(result.tag.is_none().then_some(result.batch));
        }
        let all = concat_batches(&schema, &results);
        return Ok((schema, all.map_err(|error| Error::new(pillion::Code::InvariantBroken, error.to_string()))?));
    }
    match session.recv().await {
        Some(result) => Ok((schema, result?.batch)),
        None => Err(Error::new(pillion::Code::SessionClosed, "the session ended without a result")),
    }
}

/// What was found, a line per fact.
fn description(described: &Described) -> String {
    let (function, environment) = (&described.function, &described.environment);
    let mut text = format!("{}\n", function.name);
    let mut fact = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<12} {value}");
    };
    let called = match (function.kind.as_str(), function.func_type.as_str()) {
        ("process", "general") => "process: called once per row and timer, with state",
        ("process", _) => "process: called once per batch, with state as columns",
        ("map", "general") => "map: called once per row, gives rows",
        ("map", "pandas") => "map: called once per batch with a pandas.DataFrame, gives one",
        ("map", "arrow") => "map: called once per batch with a pyarrow.RecordBatch, gives one",
        (_, "pandas") => "scalar: called once per batch with pandas.Series",
        (_, "arrow") => "scalar: called once per batch with pyarrow.Array",
        _ => "scalar: called once per row",
    };
    fact("kind", called);
    if function.kind == "scalar" {
        fact("signature", &signature(function));
    }
    for parameter in function.parameters.iter().filter(|parameter| function.kind != "map" || !parameter.r#type.is_empty()) {
        let kind = if parameter.r#type.is_empty() { "as the column is" } else { &parameter.r#type };
        let note = match (parameter.variadic, parameter.optional) {
            (true, _) => ", any number",
            (_, true) => ", may be left out",
            _ => "",
        };
        fact("argument", &format!("{}: {kind}{note}", parameter.name));
    }
    let result = match &function.result {
        Some(_) if !function.result_type.is_empty() => function.result_type.clone(),
        Some(schema) => {
            schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect::<Vec<_>>().join(", ")
        }
        None => "the columns of the input".to_owned(),
    };
    fact("result", &result);
    state_facts(function, &mut fact);
    if !function.deterministic {
        fact("note", "equal arguments may give different results");
    }
    if let Some(line) = function.doc.lines().map(str::trim).find(|line| !line.is_empty()) {
        fact("doc", line);
    }
    fact("interpreter", &format!("Python {} ({})", environment.python_version, environment.executable));
    let mut packages: Vec<String> = environment.packages.iter().map(|(name, version)| format!("{name} {version}")).collect();
    packages.sort();
    fact("packages", &if packages.is_empty() { "none of those that conversions use".to_owned() } else { packages.join(", ") });
    text.truncate(text.trim_end().len());
    text
}

/// What a function keeps, when it wakes up, what it gives beside its result.
fn state_facts(function: &FunctionDescription, fact: &mut impl FnMut(&str, &str)) {
    for cell in &function.cells {
        let types = ipc::schema_from_ipc(&cell.schema).map(|schema| {
            let types: Vec<_> = schema.fields().iter().map(|field| field.data_type().to_string()).collect();
            types.join(" to ")
        });
        let types = if cell.pickled { "pickles".to_owned() } else { types.unwrap_or_default() };
        let lives = cell.time_to_live.as_ref().map(|ttl| format!(", for {:?}", std::time::Duration::from_millis(ttl.duration_ms)));
        fact("cell", &format!("{}: {} of {types}{}", cell.name, cell.kind, lives.unwrap_or_default()));
    }
    for timer in &function.timers {
        fact("timer", timer);
    }
    for (tag, schema) in &function.side_outputs {
        let columns: Vec<_> = schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
        fact("side output", &format!("{tag}: {}", columns.join(", ")));
    }
}
