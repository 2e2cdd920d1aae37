//! The Python worker runtime of Pillion, as the CPython extension `pillion._native`.
//!
//! Two halves. *Conversion*: [`datatype`], [`column`] and [`batch`] are what Python sees of Arrow; the modules beside them convert. *Runtime*:
//! `run` connects to the sidecar and executes batches (DESIGN D3); `table` lets an engine in this
//! process call the same (D4). Nothing happens at import: no thread, no runtime, no connection, so that a
//! fork server may import this module.
//!
//! `unsafe` lives in [`buffers`], `process` and `table` only.

mod batch;
#[expect(unsafe_code, reason = "addresses that Python hands out")]
mod buffers;
mod bundle;
mod capsule;
mod cast;
mod classes;
mod column;
mod datatype;
mod error;
mod fetch;
mod from_python;
mod numpy;
mod parse;
#[expect(unsafe_code, reason = "what rustix has no safe wrapper for")]
mod process;
mod runtime;
mod schema;
#[expect(unsafe_code, reason = "called by an engine that is compiled apart")]
mod table;
mod text;
mod to_python;
mod view;

/// The module `pillion._native`.
#[pyo3::pymodule]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::batch::Batch;
    #[pymodule_export]
    use crate::column::Column;
    #[pymodule_export]
    use crate::datatype::Type;
    #[pymodule_export]
    use crate::error::ConversionError;
    #[pymodule_export]
    use crate::process::set_process_title;
    #[pymodule_export]
    use crate::runtime::metrics::{are_metric_bounds, is_metric_name, metric_bounds};
    #[pymodule_export]
    use crate::runtime::{Space, log, run, space};
    #[pymodule_export]
    use crate::schema::{schema_from_ipc, schema_to_ipc};
    #[pymodule_export]
    use crate::table::table;
    #[pymodule_export]
    use crate::view::View;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // The default of the attribute that each failure of a row sets.
        module.py().get_type::<ConversionError>().setattr("row", module.py().None())
    }
}
