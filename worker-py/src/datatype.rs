//! `Type`: an Arrow data type as Python sees it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, TimeUnit};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyTuple};

use crate::{capsule, parse, text};

/// An Arrow data type and whether its values may be null. Immutable and hashable; equal types have equal text.
#[pyclass(frozen, name = "Type", module = "pillion._native")]
#[derive(Clone, Debug)]
pub struct Type {
    /// The Arrow type.
    pub data_type: DataType,
    /// False for `not null`.
    #[pyo3(get)]
    pub nullable: bool,
}

impl Type {
    /// The type of a field.
    pub fn of(field: &Field) -> Self {
        Self { data_type: field.data_type().clone(), nullable: field.is_nullable() }
    }

    /// A field of this type.
    pub fn field(&self, name: &str) -> FieldRef {
        Arc::new(Field::new(name, self.data_type.clone(), self.nullable))
    }
}

#[pymethods]
impl Type {
    /// Reads a type from SQL-like or Arrow-like text, for example `bigint`, `array<double>`, `row<a bigint, b string> not null`.
    ///
    /// Raises `ValueError` naming the part that makes no sense.
    #[staticmethod]
    #[pyo3(name = "parse")]
    fn from_text(text: &str) -> PyResult<Self> {
        parse::parse(text).map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// The type of anything with `__arrow_c_schema__`: types and fields of pyarrow 14 and later, of polars, of this module.
    #[staticmethod]
    fn from_arrow(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(own) = value.cast::<Self>() {
            return Ok(own.get().clone());
        }
        Ok(Self::of(&capsule::field_of(value)?))
    }

    /// The same type, nullable or not.
    fn with_nullable(&self, nullable: bool) -> Self {
        Self { data_type: self.data_type.clone(), nullable }
    }

    /// The kind of type, for example `int64`, `utf8`, `timestamp`, `list`, `struct`.
    #[getter]
    fn kind(&self) -> &'static str {
        text::kind(&self.data_type)
    }

    /// `s`, `ms`, `us` or `ns` of a timestamp, time or duration, else `None`.
    #[getter]
    fn unit(&self) -> Option<&'static str> {
        match &self.data_type {
            DataType::Timestamp(unit, _) | DataType::Time32(unit) | DataType::Time64(unit) | DataType::Duration(unit) => {
                Some(unit_text(*unit))
            }
            _ => None,
        }
    }

    /// Time zone of a timestamp, else `None`.
    #[getter]
    fn timezone(&self) -> Option<&str> {
        match &self.data_type {
            DataType::Timestamp(_, zone) => zone.as_deref(),
            _ => None,
        }
    }

    /// Number of digits of a decimal, else `None`.
    #[getter]
    fn precision(&self) -> Option<u8> {
        decimal_of(&self.data_type).map(|(precision, _)| precision)
    }

    /// Digits after the point of a decimal, else `None`.
    #[getter]
    fn scale(&self) -> Option<i8> {
        decimal_of(&self.data_type).map(|(_, scale)| scale)
    }

    /// Names and types of the parts: a list's item, a map's key and value, a struct's fields, a dictionary's values.
    #[getter]
    fn children(&self) -> Vec<(String, Self)> {
        let part = |field: &FieldRef| (field.name().clone(), Self::of(field));
        match &self.data_type {
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => vec![part(item)],
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(fields) => fields.iter().map(part).collect(),
                _ => Vec::new(),
            },
            DataType::Struct(fields) => fields.iter().map(part).collect(),
            DataType::Dictionary(_, values) => vec![(String::from("values"), Self { data_type: (**values).clone(), nullable: true })],
            _ => Vec::new(),
        }
    }

    /// The type as a PyCapsule of the Arrow C data interface.
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        capsule::export_field(py, &self.field(""))
    }

    fn __str__(&self) -> String {
        text::text(&self.data_type, self.nullable)
    }

    fn __repr__(&self) -> String {
        format!("Type({:?})", self.__str__())
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.__str__().hash(&mut hasher);
        hasher.finish()
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.nullable == other.nullable && (self.data_type == other.data_type || self.__str__() == other.__str__())
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let parse = py.get_type::<Self>().getattr("parse")?;
        Ok((parse, PyTuple::new(py, [self.__str__()])?))
    }
}

/// The short name of a unit.
pub fn unit_text(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

/// Units of this size in a second.
pub fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// Precision and scale of a decimal type of any width.
pub fn decimal_of(data_type: &DataType) -> Option<(u8, i8)> {
    match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => Some((*precision, *scale)),
        _ => None,
    }
}
