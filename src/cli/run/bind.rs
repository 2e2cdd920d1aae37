//! Which columns of the input are the arguments of a function.

use arrow_schema::Schema;
use pillion::host::FunctionDescription;

use crate::cli::failure::Failure;

/// The columns for the parameters of a scalar function, in order: those named by `--args`, else those with the parameters' names.
///
/// # Errors
/// A column that does not exist, or a wrong number of `--args`.
pub fn arguments(function: &FunctionDescription, schema: &Schema, args: Option<&[String]>) -> Result<Vec<usize>, Failure> {
    match args {
        Some(names) => by_list(function, schema, names),
        None => by_name(function, schema),
    }
}

fn by_list(function: &FunctionDescription, schema: &Schema, names: &[String]) -> Result<Vec<usize>, Failure> {
    let columns = names.iter().map(|name| column(schema, name)).collect::<Result<Vec<_>, _>>()?;
    let parameters = &function.parameters;
    let least = parameters.iter().filter(|parameter| !parameter.optional && !parameter.variadic).count();
    let most = if parameters.iter().any(|parameter| parameter.variadic) { usize::MAX } else { parameters.len() };
    if columns.len() < least || columns.len() > most {
        let takes = match (least, most) {
            (least, usize::MAX) => format!("at least {least}"),
            (least, most) if least == most => most.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        let shown = signature(function);
        let text = format!("`{shown}` takes {takes} argument{}, but `--args` names {}", if takes == "1" { "" } else { "s" }, columns.len());
        return Err(Failure::usage(text).hint("give `--args` one column per parameter, in their order"));
    }
    Ok(columns)
}

fn by_name(function: &FunctionDescription, schema: &Schema) -> Result<Vec<usize>, Failure> {
    let mut columns = Vec::new();
    for parameter in &function.parameters {
        if parameter.variadic {
            break;
        }
        match schema.index_of(&parameter.name) {
            Ok(index) => columns.push(index),
            // Arguments are positional: after one that is left out no other can be given.
            Err(_) if parameter.optional => break,
            Err(_) => {
                let text = format!("the input has no column `{}` for the parameter of `{}`", parameter.name, signature(function));
                return Err(Failure::usage(text).hint(format!("columns: {}; bind others with `--args`", list(schema))));
            }
        }
    }
    if columns.is_empty() && function.parameters.iter().any(|parameter| parameter.variadic) {
        let text = format!("`{}` takes any number of columns", signature(function));
        return Err(Failure::usage(text).hint("say which with `--args column,column`"));
    }
    Ok(columns)
}

/// The index of a column.
///
/// # Errors
/// A usage failure that lists the columns.
pub fn column(schema: &Schema, name: &str) -> Result<usize, Failure> {
    schema
        .index_of(name)
        .map_err(|_| Failure::usage(format!("the input has no column `{name}`")).hint(format!("columns: {}", list(schema))))
}

/// Most columns that an error lists.
const MOST_LISTED: usize = 40;

fn list(schema: &Schema) -> String {
    let mut names: Vec<String> = schema.fields().iter().take(MOST_LISTED).map(|field| format!("`{}`", field.name())).collect();
    if schema.fields().len() > MOST_LISTED {
        names.push(format!("and {} more", schema.fields().len() - MOST_LISTED));
    }
    names.join(", ")
}

/// `name(a, b=..., *rest)`, with the function's own name.
pub fn signature(function: &FunctionDescription) -> String {
    let parameters: Vec<String> = function
        .parameters
        .iter()
        .map(|parameter| match (parameter.variadic, parameter.optional) {
            (true, _) => format!("*{}", parameter.name),
            (_, true) => format!("{}=...", parameter.name),
            _ => parameter.name.clone(),
        })
        .collect();
    format!("{}({})", own_name(function), parameters.join(", "))
}

/// The name without its file or module.
pub fn own_name(function: &FunctionDescription) -> &str {
    function.name.rsplit(':').next().unwrap_or(&function.name)
}
