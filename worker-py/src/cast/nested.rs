//! Lists, structs and maps, part by part.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, FixedSizeListArray, LargeListArray, ListArray, MapArray, StructArray, UInt64Array};
use arrow_buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, FieldRef, Fields};

use super::{lossless, unfit};
use crate::error::{Failure, Outcome};

/// True for the list types that can be converted into each other.
pub fn is_list(data_type: &DataType) -> bool {
    matches!(data_type, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..))
}

/// A list of any layout: row `i` holds the items `offsets[i]..offsets[i + 1]`.
struct Items {
    offsets: Vec<usize>,
    values: ArrayRef,
    nulls: Option<NullBuffer>,
}

impl Items {
    fn of(array: &ArrayRef) -> Outcome<Self> {
        let (offsets, values): (Vec<usize>, &ArrayRef) = match array.data_type() {
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                (list.value_offsets().iter().map(|&offset| offset.max(0).unsigned_abs() as usize).collect(), list.values())
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                let offsets = list.value_offsets().iter().map(|&offset| usize::try_from(offset).unwrap_or(0)).collect();
                (offsets, list.values())
            }
            DataType::FixedSizeList(_, size) => {
                let list = array.as_fixed_size_list();
                let size = size.unsigned_abs() as usize;
                ((0..=list.len()).map(|row| row * size).collect(), list.values())
            }
            other => return Err(unfit(other, &DataType::Null)),
        };
        // Only the items that the rows use; others must not make the conversion fail.
        let (first, last) = (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
        let values = values.slice(first, last - first);
        Ok(Self { offsets: offsets.into_iter().map(|offset| offset - first).collect(), values, nulls: array.nulls().cloned() })
    }

    /// The row that item `item` belongs to.
    fn row_of(&self, item: usize) -> usize {
        self.offsets.partition_point(|&offset| offset <= item).saturating_sub(1)
    }
}

/// Converts a list and its items.
pub fn list(array: &ArrayRef, to: &DataType) -> Outcome<ArrayRef> {
    let items = Items::of(array)?;
    let (DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _)) = to else {
        return Err(unfit(array.data_type(), to));
    };
    let values = lossless(&items.values, field.data_type(), false).map_err(|failure| failure.outer_row(|item| items.row_of(item)))?;
    let nulls = items.nulls.clone();
    Ok(match to {
        DataType::FixedSizeList(_, size) => fixed(&items, &values, field, *size)?,
        DataType::LargeList(_) => {
            let offsets = ScalarBuffer::from_iter(items.offsets.iter().map(|&offset| offset as i64));
            Arc::new(LargeListArray::try_new(field.clone(), OffsetBuffer::new(offsets), values, nulls)?)
        }
        _ => {
            if i32::try_from(values.len()).is_err() {
                return Err(Failure::whole("the lists hold more items than an `array` column can; use `large_array`"));
            }
            let offsets = ScalarBuffer::from_iter(items.offsets.iter().map(|&offset| offset as i32));
            Arc::new(ListArray::try_new(field.clone(), OffsetBuffer::new(offsets), values, nulls)?)
        }
    })
}

/// Lists that all have the same size; the items of null rows are filled up.
fn fixed(items: &Items, values: &ArrayRef, field: &FieldRef, size: i32) -> Outcome<ArrayRef> {
    let size_usize = size.unsigned_abs() as usize;
    let rows = items.offsets.len().saturating_sub(1);
    let mut positions = Vec::with_capacity(rows * size_usize);
    for row in 0..rows {
        let (start, end) = (items.offsets[row], items.offsets[row + 1]);
        if items.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            positions.extend(std::iter::repeat_n(None, size_usize));
        } else if end - start == size_usize {
            positions.extend((start..end).map(|position| Some(position as u64)));
        } else {
            return Err(Failure::at(row, format!("a list of {} items does not have the size {size}", end - start)));
        }
    }
    let values = arrow_select::take::take(values, &UInt64Array::from(positions), None)?;
    Ok(Arc::new(FixedSizeListArray::try_new(field.clone(), size, values, items.nulls.clone())?))
}

/// Converts a struct field by field, matched by name.
pub fn structure(array: &ArrayRef, fields: &Fields) -> Outcome<ArrayRef> {
    let source = array.as_struct();
    if let Some(extra) = source.fields().iter().find(|field| fields.find(field.name()).is_none()) {
        return Err(Failure::Type(format!(
            "the type `{}` has no field `{}`",
            super::text(&DataType::Struct(fields.clone()), true),
            extra.name()
        )));
    }
    let columns = fields
        .iter()
        .map(|field| {
            let column =
                source.column_by_name(field.name()).ok_or_else(|| Failure::Type(format!("field `{}` is missing", field.name())))?;
            lossless(column, field.data_type(), false).map_err(|failure| failure.inside(&format!("field `{}`", field.name())))
        })
        .collect::<Outcome<Vec<_>>>()?;
    Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, source.nulls().cloned(), source.len())?))
}

/// Converts the keys and values of a map.
pub fn map(array: &ArrayRef, entries: &FieldRef, sorted: bool) -> Outcome<ArrayRef> {
    let source = array.as_map();
    let DataType::Struct(fields) = entries.data_type() else { return Err(unfit(array.data_type(), entries.data_type())) };
    let row_of =
        |entry: usize| source.value_offsets().partition_point(|&offset| offset.max(0).unsigned_abs() as usize <= entry).saturating_sub(1);
    let part =
        |column: &ArrayRef, index: usize| lossless(column, fields[index].data_type(), false).map_err(|failure| failure.outer_row(row_of));
    let columns = vec![part(source.keys(), 0)?, part(source.values(), 1)?];
    let converted = StructArray::try_new(fields.clone(), columns, None)?;
    Ok(Arc::new(MapArray::try_new(entries.clone(), source.offsets().clone(), converted, source.nulls().cloned(), sorted)?))
}
