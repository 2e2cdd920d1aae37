//! Times with a named zone, for formats of text.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, Schema};

/// The batch with its times in UTC where their zone is a name. It is the same instant, written with `Z`; only names need the tables of zones, which
/// this program does not carry.
pub fn in_utc(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let fields = batch.schema_ref().fields();
    let shifted = all_in_utc(fields);
    if shifted == *fields {
        return Ok(batch.clone());
    }
    let columns = batch.columns().iter().zip(&shifted).map(|(column, field)| cast(column, field.data_type()));
    let columns = columns.collect::<Result<Vec<ArrayRef>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(shifted)), columns, &options)
}

fn all_in_utc(fields: &Fields) -> Fields {
    fields.iter().map(field_in_utc).collect()
}

fn field_in_utc(field: &FieldRef) -> FieldRef {
    let kind = match field.data_type() {
        DataType::Timestamp(unit, Some(zone)) if !zone.starts_with(['+', '-']) => DataType::Timestamp(*unit, Some("+00:00".into())),
        DataType::List(item) => DataType::List(field_in_utc(item)),
        DataType::LargeList(item) => DataType::LargeList(field_in_utc(item)),
        DataType::Struct(fields) => DataType::Struct(all_in_utc(fields)),
        _ => return Arc::clone(field),
    };
    Arc::new(Field::clone(field).with_data_type(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::TimestampSecondArray;
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
}
