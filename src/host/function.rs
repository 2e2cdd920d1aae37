//! Naming functions, and plans made of them.

use crate::error::{Code, Error, Result};
use pillion_wire::proto;
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Where user code is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FunctionRef {
    /// A name in a Python file; dots reach into classes.
    File {
        /// As the workers see it; made absolute when it is sent.
        path: PathBuf,
        /// Of the function.
        name: String,
    },
    /// A name in an importable module.
    Module {
        /// Dotted.
        module: String,
        /// Of the function.
        name: String,
    },
}

impl FunctionRef {
    /// A function in a file.
    pub fn file(path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        FunctionRef::File { path: path.into(), name: name.into() }
    }

    /// A function in a module.
    pub fn module(module: impl Into<String>, name: impl Into<String>) -> Self {
        FunctionRef::Module { module: module.into(), name: name.into() }
    }

    /// Reads `path/file.py:name` or `module:name`.
    ///
    /// # Errors
    /// [`Code::FunctionNotFound`] if there is no name after the last `:`.
    pub fn parse(text: &str) -> Result<Self> {
        let split = text.rsplit_once(':').filter(|(place, name)| !place.is_empty() && !name.is_empty());
        let Some((place, name)) = split else {
            return Err(Error::new(Code::FunctionNotFound, format!("`{text}` does not name a function"))
                .hint("write `path/file.py:name` or `module:name`"));
        };
        if place.contains('/') || Path::new(place).extension().is_some_and(|extension| extension == "py") {
            Ok(FunctionRef::file(place, name))
        } else {
            Ok(FunctionRef::module(place, name))
        }
    }

    /// The function's own name, without its place.
    pub fn name(&self) -> &str {
        match self {
            FunctionRef::File { name, .. } | FunctionRef::Module { name, .. } => name,
        }
    }

    pub(super) fn to_proto(&self) -> Result<proto::FunctionSpec> {
        use proto::function_spec::Source;
        let source = match self {
            FunctionRef::Module { module, name } => Source::Module(proto::ModuleFunction { module: module.clone(), name: name.clone() }),
            FunctionRef::File { path, name } => {
                // The sidecar may run in another folder.
                let absolute = std::path::absolute(path).map_err(|error| {
                    Error::new(Code::ModuleNotFound, format!("`{}` cannot be made an absolute path: {error}", path.display()))
                })?;
                let Some(path) = absolute.to_str() else {
                    return Err(Error::new(Code::ModuleNotFound, format!("the path `{}` is not UTF-8", absolute.display())));
                };
                Source::File(proto::FileFunction { path: path.to_owned(), name: name.clone() })
            }
        };
        Ok(proto::FunctionSpec { source: Some(source), result_type: String::new() })
    }
}

impl fmt::Display for FunctionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FunctionRef::File { path, name } => write!(f, "{}:{name}", path.display()),
            FunctionRef::Module { module, name } => write!(f, "{module}:{name}"),
        }
    }
}

/// Where an argument or an output column comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A column of the input, by index.
    Column(usize),
    /// The result of an earlier call of the plan, by index.
    Call(usize),
}

/// One call of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanCall {
    /// What is called.
    pub function: FunctionRef,
    /// In the order of its parameters; a map function takes none, it sees the whole batch.
    pub arguments: Vec<Source>,
}

/// What a session computes over each batch: calls in order, so that chained functions (`f(g(x))`) and several result columns take one trip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Each may use the input and the calls before it.
    pub calls: Vec<PlanCall>,
    /// Name and source of each result column. Empty for a map function, whose rows are the result.
    pub outputs: Vec<(String, Source)>,
}

impl Plan {
    /// One scalar function of these input columns; its result is the only column, `output`.
    pub fn scalar(function: FunctionRef, columns: Vec<usize>, output: impl Into<String>) -> Self {
        let arguments = columns.into_iter().map(Source::Column).collect();
        Plan { calls: vec![PlanCall { function, arguments }], outputs: vec![(output.into(), Source::Call(0))] }
    }

    /// One map function over whole batches.
    pub fn map(function: FunctionRef) -> Self {
        Plan { calls: vec![PlanCall { function, arguments: vec![] }], outputs: vec![] }
    }

    pub(super) fn to_proto(&self) -> Result<proto::Plan> {
        let calls = self.calls.iter().map(|call| {
            let arguments = call.arguments.iter().copied().map(argument).collect();
            Ok(proto::Call { function: Some(call.function.to_proto()?), arguments })
        });
        let outputs = self.outputs.iter().map(|(name, source)| proto::OutputColumn { name: name.clone(), source: Some(argument(*source)) });
        Ok(proto::Plan { calls: calls.collect::<Result<_>>()?, outputs: outputs.collect() })
    }
}

fn argument(source: Source) -> proto::Argument {
    use proto::argument;
    // An index beyond `u32` cannot name a column, and is refused at open like any other that does not.
    let index = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
    let source = match source {
        Source::Column(column) => argument::Source::Column(index(column)),
        Source::Call(call) => argument::Source::Call(index(call)),
    };
    proto::Argument { source: Some(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_named_by_file_or_module() {
        assert_eq!(FunctionRef::parse("a/b.py:C.f").unwrap(), FunctionRef::file("a/b.py", "C.f"));
        assert_eq!(FunctionRef::parse("b.py:f").unwrap(), FunctionRef::file("b.py", "f"));
        assert_eq!(FunctionRef::parse("a.b:f").unwrap(), FunctionRef::module("a.b", "f"));
        assert_eq!(FunctionRef::parse("./odd:f").unwrap(), FunctionRef::file("./odd", "f"));
        for text in ["", "f", "f.py", "f.py:", ":f"] {
            assert_eq!(FunctionRef::parse(text).unwrap_err().code(), Code::FunctionNotFound, "{text}");
        }
        assert_eq!(FunctionRef::parse("a/b.py:f").unwrap().to_string(), "a/b.py:f");
    }
}
