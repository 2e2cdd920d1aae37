//! Types that a format has no form for, in the nearest form that it has.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, Schema};

/// The batch with its times in UTC where their zone is a name, for formats of text. It is the same instant, written with `Z`; only names need the
/// tables of zones, which this program does not carry.
pub fn in_utc(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    recast(batch, &|kind| match kind {
        DataType::Timestamp(unit, Some(zone)) if !zone.starts_with(['+', '-']) => Some(DataType::Timestamp(*unit, Some("+00:00".into()))),
        _ => None,
    })
}

/// The batch with values in place of dictionaries, for IPC files, which have one dictionary per column for all batches.
pub(super) fn without_dictionaries(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    recast(batch, &|kind| match kind {
        DataType::Dictionary(_, value) => Some(value.as_ref().clone()),
        _ => None,
    })
}

type Change<'a> = &'a dyn Fn(&DataType) -> Option<DataType>;

fn recast(batch: &RecordBatch, change: Change<'_>) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema_ref();
    let changed = changed_fields(schema.fields(), change);
    if changed == *schema.fields() {
        return Ok(batch.clone());
    }
    let columns = batch.columns().iter().zip(&changed).map(|(column, field)| cast(column, field.data_type()));
    let columns = columns.collect::<Result<Vec<ArrayRef>, _>>()?;
    let schema = Schema::new_with_metadata(changed, schema.metadata().clone());
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(schema), columns, &options)
}

fn changed_fields(fields: &Fields, change: Change<'_>) -> Fields {
    fields.iter().map(|field| changed_field(field, change)).collect()
}

fn changed_field(field: &FieldRef, change: Change<'_>) -> FieldRef {
    let kind = match (change(field.data_type()), field.data_type()) {
        (Some(kind), _) => kind,
        (None, DataType::List(item)) => DataType::List(changed_field(item, change)),
        (None, DataType::LargeList(item)) => DataType::LargeList(changed_field(item, change)),
        (None, DataType::Struct(fields)) => DataType::Struct(changed_fields(fields, change)),
        _ => return Arc::clone(field),
    };
    Arc::new(Field::clone(field).with_data_type(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::types::Int32Type;
    use arrow_array::{DictionaryArray, StringArray, TimestampSecondArray};
    use arrow_cast::display::array_value_to_string;

    #[test]
    fn named_zones_are_shown_in_utc_and_offsets_as_they_are() {
        for (zone, shown) in
            [("America/New_York", "2013-01-01T00:00:00Z"), ("UTC", "2013-01-01T00:00:00Z"), ("+01:00", "2013-01-01T01:00:00+01:00")]
        {
            let times: ArrayRef = Arc::new(TimestampSecondArray::from(vec![1_356_998_400]).with_timezone(zone));
            let batch = in_utc(&RecordBatch::try_from_iter([("t", times)]).unwrap()).unwrap();
            assert_eq!(array_value_to_string(batch.column(0), 0).unwrap(), shown, "{zone}");
        }
    }

    #[test]
    fn dictionaries_become_their_values() {
        let texts: ArrayRef = Arc::new(["a", "b", "a"].into_iter().collect::<DictionaryArray<Int32Type>>());
        let batch = without_dictionaries(&RecordBatch::try_from_iter([("t", texts)]).unwrap()).unwrap();
        assert_eq!(batch.column(0).as_ref(), &StringArray::from(vec!["a", "b", "a"]) as &dyn arrow_array::Array);
    }
}
