//! What is sent of a batch, and what becomes of the result.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use pillion::host::{FunctionDescription, PlanCall, Source};
use pillion::{FunctionRef, Plan};

use super::bind;
use crate::cli::failure::Failure;

/// What the command line says about columns.
#[derive(Clone, Copy, Default)]
pub struct Wish<'a> {
    pub args: Option<&'a [String]>,
    pub into: Option<&'a str>,
    pub filter: bool,
}

/// A function bound to the columns of an input.
pub struct Binding {
    function: FunctionRef,
    input: SchemaRef,
    /// The columns that are sent, each once.
    columns: Vec<usize>,
    /// For each parameter, its place among `columns`.
    arguments: Vec<usize>,
    purpose: Purpose,
}

enum Purpose {
    /// The result is a column of this name.
    Column(String),
    Filter,
    /// The result replaces the batch.
    Map,
}

impl Binding {
    /// Binds `described` to the columns of `input`.
    ///
    /// # Errors
    /// Columns that do not exist, a wrong number of them, flags that do not fit the kind of function.
    pub fn new(function: FunctionRef, described: &FunctionDescription, input: &SchemaRef, wish: Wish<'_>) -> Result<Self, Failure> {
        let input = Arc::clone(input);
        if described.kind != "scalar" {
            refuse_flags_of_scalar_functions(described, wish)?;
            let columns = (0..input.fields().len()).collect();
            return Ok(Self { function, input, columns, arguments: Vec::new(), purpose: Purpose::Map });
        }
        let bound = bind::arguments(described, &input, wish.args)?;
        let mut columns = bound.clone();
        columns.sort_unstable();
        columns.dedup();
        let arguments = bound.iter().filter_map(|column| columns.binary_search(column).ok()).collect();
        let purpose = match wish.into {
            _ if wish.filter => Purpose::Filter,
            Some(name) => Purpose::Column(name.to_owned()),
            None => Purpose::Column(bind::own_name(described).to_owned()),
        };
        Ok(Self { function, input, columns, arguments, purpose })
    }

    pub fn plan(&self) -> Plan {
        let function = self.function.clone();
        let name = match &self.purpose {
            Purpose::Map => return Plan::map(function),
            Purpose::Column(name) => name.clone(),
            Purpose::Filter => self.function.name().to_owned(),
        };
        let arguments = self.arguments.iter().copied().map(Source::Column).collect();
        Plan { calls: vec![PlanCall { function, arguments }], outputs: vec![(name, Source::Call(0))] }
    }

    /// The schema of what is sent: only the columns that are needed.
    pub fn sent_schema(&self) -> SchemaRef {
        let fields: Vec<FieldRef> = self.columns.iter().map(|&column| Arc::clone(&self.input.fields()[column])).collect();
        Arc::new(Schema::new(fields))
    }

    /// What is sent of a batch.
    ///
    /// # Errors
    /// None for batches of the input's schema.
    pub fn sent(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let columns = self.columns.iter().map(|&column| Arc::clone(batch.column(column))).collect();
        make(self.sent_schema(), columns, batch.num_rows())
    }

    /// What becomes of results of schema `result`.
    ///
    /// # Errors
    /// A filter whose function gives no booleans.
    pub fn assembly(&self, result: &SchemaRef) -> Result<Assembly, Failure> {
        let (schema, place) = match &self.purpose {
            Purpose::Map => (Arc::clone(result), Place::Map),
            Purpose::Filter => {
                let found = result.field(0).data_type();
                if *found != DataType::Boolean {
                    let text =
                        format!("`--where` needs a function with a boolean result, but that of `{}` is `{found}`", self.function.name());
                    return Err(Failure::usage(text).hint("declare it with `result_type=\"boolean\"`, or leave `--where` out"));
                }
                (Arc::clone(&self.input), Place::Filter)
            }
            Purpose::Column(name) => {
                let field = Arc::new(Field::clone(result.field(0)).with_name(name));
                let mut fields: Vec<FieldRef> = self.input.fields().iter().cloned().collect();
                let place = self.input.index_of(name).ok();
                match place {
                    Some(index) => fields[index] = field,
                    None => fields.push(field),
                }
                let schema = Schema::new_with_metadata(fields, self.input.metadata().clone());
                (Arc::new(schema), Place::Column(place))
            }
        };
        Ok(Assembly { schema, place, gaps: Gaps::default() })
    }
}

fn refuse_flags_of_scalar_functions(function: &FunctionDescription, wish: Wish<'_>) -> Result<(), Failure> {
    let flags = [("--args", wish.args.is_some()), ("--into", wish.into.is_some()), ("--where", wish.filter)];
    match flags.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => {
            let text = format!("`{flag}` does not go with the {} function `{}`", function.kind, bind::own_name(function));
            Err(Failure::usage(text).hint("it gets all columns, and its rows replace the input's"))
        }
    }
}

/// Puts batches and their results together.
pub struct Assembly {
    schema: SchemaRef,
    place: Place,
    gaps: Gaps,
}

enum Place {
    /// Replaces this column, or is added at the end.
    Column(Option<usize>),
    Filter,
    Map,
}

impl Assembly {
    /// The schema of the output.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The output of one batch.
    ///
    /// # Errors
    /// A result with another number of rows than its batch, which the engine has ruled out.
    pub fn assemble(&mut self, batch: &RecordBatch, result: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let output = match self.place {
            Place::Map => result,
            Place::Filter => return filter_record_batch(batch, result.column(0).as_boolean()),
            Place::Column(place) => {
                let mut columns = batch.columns().to_vec();
                let column = Arc::clone(result.column(0));
                match place {
                    Some(index) => columns[index] = column,
                    None => columns.push(column),
                }
                make(self.schema(), columns, batch.num_rows())?
            }
        };
        self.gaps.count(batch, &output);
        Ok(output)
    }

    /// Columns that have fewer nulls than in the input, with how many fewer.
    pub fn filled(&self) -> Vec<(String, u64)> {
        self.gaps.filled()
    }
}

fn make(schema: SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    // A function without arguments is sent batches without columns, which still have rows.
    RecordBatch::try_new_with_options(schema, columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
}

/// Counts the nulls of the columns that input and output have in common, while no row is added or dropped.
#[derive(Default)]
struct Gaps {
    columns: Vec<(String, u64, u64)>,
    rows_differ: bool,
}

impl Gaps {
    fn count(&mut self, input: &RecordBatch, output: &RecordBatch) {
        self.rows_differ |= input.num_rows() != output.num_rows();
        if self.rows_differ {
            return;
        }
        if self.columns.is_empty() {
            let names = output.schema_ref().fields().iter().map(|field| field.name().clone());
            self.columns = names.filter(|name| input.schema_ref().index_of(name).is_ok()).map(|name| (name, 0, 0)).collect();
        }
        for (name, before, after) in &mut self.columns {
            let nulls = |batch: &RecordBatch| batch.column_by_name(name).map_or(0, |column| column.null_count() as u64);
            *before += nulls(input);
            *after += nulls(output);
        }
    }

    fn filled(&self) -> Vec<(String, u64)> {
        if self.rows_differ {
            return Vec::new();
        }
        let filled = self.columns.iter().filter(|(_, before, after)| before > after);
        filled.map(|(name, before, after)| (name.clone(), before - after)).collect()
    }
}
