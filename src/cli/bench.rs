//! `pillion bench`: how the modes compare on a function and its data.
//!
//! Every variant (process inline, process over shared memory, thread; engine inside the host, or in a sidecar) is started through the public API,
//! runs the same batches, and must give the same answers. The variants take turns, so that a disturbance meets all of them alike.

mod advice;
mod chart;
mod data;
mod lab;
mod measure;
mod output;
mod page;
mod report;
mod table;
mod variant;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::RangedU64ValueParser;
use pillion::FunctionRef;
use pillion::environment::Mode;
use pillion::host::Described;

use self::data::Data;
use self::lab::{Lab, Task};
use self::output::Place;
use self::report::{Function, Machine, Measured, Report};
use self::variant::Variant;
use super::engine_args::{self, EngineArgs, function_ref};
use super::failure::Failure;
use super::progress::Progress;
use super::signals::Signals;

/// The function that is measured if none is named.
const EXAMPLE: &str = include_str!("bench/example.py");

/// Compare the modes on a function and its data: latency, throughput, and where the time goes.
///
/// Runs the function in processes and in threads, inline and over shared memory, in this process and through a sidecar of its own, in under a
/// minute. Every variant must give the same answers. Without FUNCTION, two columns of integers are added.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The function: `path/file.py:name` or `module:name` [default: an addition of two 64-bit integers]
    #[arg(value_name = "FUNCTION", requires = "input")]
    function: Option<String>,

    /// Its data (formats as for `run`); up to 400,000 rows are used, fewer than 100,000 are repeated
    #[arg(long, short, value_name = "FILE", requires = "function")]
    input: Option<PathBuf>,

    /// Columns for the function's parameters, in order [default: the columns with the parameters' names]
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',', requires = "function", help_heading = "Function")]
    args: Option<Vec<String>>,

    /// Time for everything but the installation of packages, in seconds
    #[arg(long, value_name = "N", default_value_t = 45, value_parser = RangedU64ValueParser::<u64>::new().range(1..=3600), help_heading = "Work")]
    seconds: u64,

    /// Workers of each engine
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..), help_heading = "Work")]
    workers: usize,

    /// Only the variants whose name begins with one of these, such as `thread` or `process inline, embedded`; can be given several times
    #[arg(long, value_name = "VARIANT", help_heading = "Work")]
    only: Vec<String>,

    /// Write the figures as JSON to this file, or with `-` to standard output instead of the table
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    json: Option<PathBuf>,

    /// Write a page with charts to this file; it needs no network
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    html: Option<PathBuf>,

    #[command(flatten)]
    engine: EngineArgs,

    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
}

/// Runs the command; the table goes to standard output.
///
/// # Errors
/// Whatever is wrong with the command line, the function or its data; if no variant works, why the first does not.
pub async fn bench(args: BenchArgs) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let outputs = Outputs::reserve(&args)?;
    let folder = tempfile::tempdir().map_err(|error| Failure::data(format!("no temporary folder can be made: {error}")))?;
    let program = std::env::current_exe().map_err(|error| Failure::data(format!("this program cannot be found: {error}")))?;
    let task = task(&args, folder.path(), &program).await?;
    let mut progress = Progress::new(args.quiet);
    let mut lab = Lab::default();
    let begun = Instant::now();
    let outcome = tokio::select! {
        caught = signals.caught() => Err(caught),
        outcome = args.work(&mut lab, &task, &mut progress) => outcome,
    };
    drop(progress);
    let report = outcome.map(|measured| args.report(&lab, &task, measured, begun.elapsed()));
    tokio::select! {
        _ = signals.caught() => {}
        () = lab.stop() => {}
    }
    outputs.write(&report?)
}

impl BenchArgs {
    async fn work(&self, lab: &mut Lab, task: &Task<'_>, progress: &mut Progress) -> Result<Vec<Measured>, Failure> {
        let first = task.variants.first().copied();
        if let Some(first) = first.filter(|_| self.engine.installs()) {
            // Packages are installed outside of the time.
            let text = self.engine.loading_text(&task.function);
            let installing = async {
                let running = first.start(&task.config, &task.environment, task.program).await?;
                let described = running.pillion.describe(&task.function, &running.environment).await;
                running.stop().await;
                described.map(drop)
            };
            progress.during(&text, installing).await?;
        }
        lab.work(task, progress).await
    }

    fn variants(&self) -> Result<Vec<Variant>, Failure> {
        let wanted = |variant: &Variant| self.only.is_empty() || self.only.iter().any(|name| variant.name().starts_with(name.trim()));
        let mode = self.engine.mode().map(|mode| if mode == Mode::Thread { variant::Mode::Thread } else { variant::Mode::Process });
        let of_mode = |variant: &Variant| mode.is_none_or(|mode| variant.mode == mode);
        let transport = self.engine.transport().map(|transport| match transport {
            engine_args::Transport::Inline => variant::Transport::Inline,
            _ => variant::Transport::Shm,
        });
        let of_transport =
            |variant: &Variant| variant.mode == variant::Mode::Thread || transport.is_none_or(|transport| variant.transport == transport);
        let possible: Vec<Variant> = variant::ALL.into_iter().chain([variant::HERE]).filter(of_mode).filter(of_transport).collect();
        let variants: Vec<Variant> = possible.iter().copied().filter(wanted).collect();
        if variants.is_empty() {
            let names: Vec<String> = possible.iter().map(|variant| format!("`{}`", variant.name())).collect();
            return Err(Failure::usage(format!("no variant that was asked for is called `{}`", self.only.join("`, `")))
                .hint(format!("there are {}", names.join("; "))));
        }
        Ok(variants)
    }

    fn report(&self, lab: &Lab, task: &Task<'_>, variants: Vec<Measured>, took: Duration) -> Report {
        let machine = Machine::here();
        Report {
            version: env!("CARGO_PKG_VERSION"),
            advice: advice::advise(&variants, machine.cores),
            machine,
            function: lab.described.as_ref().map(|described| function(described, self.function.is_none())).unwrap_or_default(),
            data: task.data.text.clone(),
            workers: self.workers,
            seconds: took.as_secs_f64(),
            variants,
            absent: lab.absent.clone(),
            notes: lab.notes.clone(),
        }
    }
}

/// Reads what the command line names, before anything is started.
async fn task<'a>(args: &'a BenchArgs, folder: &Path, program: &'a Path) -> Result<Task<'a>, Failure> {
    let function = match &args.function {
        Some(function) => function_ref(function)?,
        None => {
            let file = folder.join("example.py");
            std::fs::write(&file, EXAMPLE).map_err(|error| Failure::data(format!("the example cannot be written: {error}")))?;
            FunctionRef::file(file, "add")
        }
    };
    let (variants, config) = (args.variants()?, args.engine.config(args.workers)?);
    let environment = args.engine.environment()?;
    let input = args.input.clone();
    let reading = tokio::task::spawn_blocking(move || input.map_or_else(Data::generated, |path| Data::read(&path)));
    let data = reading.await.map_err(|error| Failure::data(format!("the data cannot be read: {error}")))??;
    let time = Duration::from_secs(args.seconds);
    Ok(Task { function, environment, args: args.args.as_deref(), data, config, program, variants, time })
}

/// Where the figures go.
struct Outputs {
    json: Option<Place>,
    html: Option<Place>,
}

impl Outputs {
    /// Files that cannot be written are refused before anything is measured.
    fn reserve(args: &BenchArgs) -> Result<Self, Failure> {
        let place = |path: &Option<PathBuf>| path.as_deref().map(Place::reserve).transpose();
        Ok(Self { json: place(&args.json)?, html: place(&args.html)? })
    }

    fn write(self, report: &Report) -> Result<(), Failure> {
        let to_stdout = [&self.json, &self.html].into_iter().flatten().any(Place::is_stdout);
        if !to_stdout {
            output::print(&table::text(report))?;
        }
        if let Some(place) = self.json {
            let text =
                serde_json::to_string_pretty(report).map_err(|error| Failure::data(format!("the figures cannot be written: {error}")))?;
            place.write(&text)?;
        }
        match self.html {
            Some(place) => place.write(&page::html(report)),
            None => Ok(()),
        }
    }
}

fn function(described: &Described, example: bool) -> Function {
    let (function, environment) = (&described.function, &described.environment);
    let mut packages: Vec<String> = environment.packages.iter().map(|(name, version)| format!("{name} {version}")).collect();
    packages.sort();
    Function {
        name: if example { "the built-in example, `add(a, b)`".to_owned() } else { function.name.clone() },
        kind: function.kind.clone(),
        func_type: function.func_type.clone(),
        python: environment.python_version.clone(),
        packages,
    }
}

impl Machine {
    /// The machine that this runs on.
    fn here() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).and_then(|line| line.split_once(':'));
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: model.map_or(std::env::consts::ARCH, |(_, model)| model.trim()).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            system: format!("{} {}", std::env::consts::OS, release.trim()).trim_end().to_owned(),
        }
    }
}
