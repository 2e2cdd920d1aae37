//! The types of one cell.

use crate::{ipc::schema_from_ipc, proto};
use arrow_schema::{ArrowError, DataType, Field, Fields};
use std::sync::Arc;

/// What one key has in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// At most one value.
    Value,
    /// Values in order.
    List,
    /// Values by key.
    Map,
}

/// A cell's types.
#[derive(Clone, Debug)]
pub struct CellLayout {
    /// As declared.
    pub name: String,
    /// What a key has.
    pub shape: Shape,
    /// Of a value; of an element or entry.
    pub value: DataType,
    /// Of the keys of a map.
    pub map_key: Option<DataType>,
    /// All keys share it.
    pub broadcast: bool,
}

impl CellLayout {
    /// The layout of a declared cell.
    ///
    /// # Errors
    /// [`ArrowError`] if the declaration makes no sense.
    pub fn from_proto(cell: &proto::StateCell) -> Result<Self, ArrowError> {
        let schema = schema_from_ipc(&cell.schema)?;
        let shape = match cell.kind.as_str() {
            "list" => Shape::List,
            "map" | "broadcast" => Shape::Map,
            "value" | "reducing" | "aggregating" => Shape::Value,
            other => return Err(ArrowError::SchemaError(format!("cell `{}` is of the unknown kind `{other}`", cell.name))),
        };
        let value = schema.field_with_name("value")?.data_type().clone();
        let map_key = if shape == Shape::Map { Some(schema.field_with_name("key")?.data_type().clone()) } else { None };
        Ok(CellLayout { name: cell.name.clone(), shape, value, map_key, broadcast: cell.kind == "broadcast" })
    }

    /// The type of the column that holds what many keys have; null where a key has nothing.
    pub fn column(&self) -> DataType {
        match &self.shape {
            Shape::Value => self.value.clone(),
            Shape::List => DataType::List(Arc::new(Field::new("item", self.value.clone(), true))),
            Shape::Map => DataType::List(Arc::new(Field::new("item", DataType::Struct(self.entry()), false))),
        }
    }

    /// The fields of a map's entry.
    pub fn entry(&self) -> Fields {
        let key = self.map_key.clone().unwrap_or(DataType::Null);
        vec![Field::new("key", key, true), Field::new("value", self.value.clone(), true)].into()
    }

    /// The fields of a write.
    pub fn write(&self) -> Fields {
        vec![
            Field::new("key", DataType::UInt32, false),
            Field::new("namespace", DataType::Binary, true),
            Field::new("op", DataType::UInt8, false),
            Field::new("sub", self.map_key.clone().unwrap_or(DataType::Null), true),
            Field::new("value", self.value.clone(), true),
        ]
        .into()
    }
}
