"""The three forms in which vectorized functions see columns: pandas, pyarrow, NumPy."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from pillion._native import Batch, Column, Type
from pillion.bundle import CLEAR, PUT, UINT8
from pillion.calls import converters

Fields = list[tuple[str, Type]]


class Form:
    """Conversions of one form."""

    def __init__(self, label: str, convert: ModuleType) -> None:
        self.label = label
        self.convert: Any = convert

    def column(self, column: Column) -> Any:
        """A column as the function sees it."""
        return self.convert.to_array(self.label, column)

    def objects(self, values: list[Any], column: Column) -> Any:
        """Python values, that were decoded from `column`, in place of a column."""
        raise NotImplementedError

    def batch(self, batch: Batch) -> Any:
        """A batch as the function sees it."""
        raise NotImplementedError

    def from_column(self, values: Any, wanted: Type, where: str = "result") -> Column:
        """A column of what the function gave."""
        column: Column = self.convert.from_result(self.label, values, wanted, len(values))
        return column

    def from_batch(self, result: Any, fields: Fields) -> Batch:
        """A batch of what the function gave."""
        raise NotImplementedError

    def absent(self, column: Column) -> Any:
        """Which values are null."""
        import numpy as np

        return np.asarray(column.null_mask())

    def clears(self, column: Column) -> Column:
        """The operations that put these values, and clear where there is null."""
        import numpy as np

        operations = np.where(np.asarray(column.null_mask()), np.uint8(CLEAR), np.uint8(PUT))
        return Column.from_numpy(operations.astype(np.uint8), UINT8)

    def repeated(self, value: Any, rows: int) -> Any:
        """`value` for each row, unless it is a column already."""
        import numpy as np

        return np.full(rows, value) if np.ndim(value) == 0 else value

    def positions(self, keys: Any) -> tuple[Any, int]:
        """Positions, from themselves or from a mask, and the largest of them."""
        import numpy as np

        found = np.asarray(keys)
        found = np.flatnonzero(found) if found.dtype == bool else found
        found = found.astype(np.int64) if not len(found) else found
        return found, int(found.max()) if len(found) else -1


class Numpy(Form):
    """Dicts of arrays."""

    def objects(self, values: list[Any], column: Column) -> Any:
        return self.convert.objects(values)

    def batch(self, batch: Batch) -> Any:
        return self.convert.to_arrays(self.label, batch)

    def from_batch(self, result: Any, fields: Fields) -> Batch:
        found: Batch = self.convert.from_arrays(self.label, result, fields)
        return found


class Pandas(Form):
    """Frames and series."""

    def column(self, column: Column) -> Any:
        return self.convert.to_series(self.label, column, self.convert.index_of(len(column)))

    def objects(self, values: list[Any], column: Column) -> Any:
        from pillion import convert_numpy

        array = convert_numpy.objects(values)
        return self.convert._public_series(array, self.convert.index_of(len(values)), column.name or None)

    def batch(self, batch: Batch) -> Any:
        return self.convert.to_frame(self.label, batch)

    def from_batch(self, result: Any, fields: Fields) -> Batch:
        found: Batch = self.convert.from_frame(self.label, result, fields)
        return found


class Arrow(Form):
    """Record batches and arrays of pyarrow."""

    def objects(self, values: list[Any], column: Column) -> Any:
        return self.convert.to_array(self.label, column)

    def batch(self, batch: Batch) -> Any:
        return self.convert.to_record_batch(self.label, batch)

    def from_column(self, values: Any, wanted: Type, where: str = "result") -> Column:
        import pyarrow as pa

        if isinstance(values, (list, tuple, range)) or type(values).__module__ == "numpy":
            values = pa.array(values)
        return super().from_column(values, wanted, where)

    def from_batch(self, result: Any, fields: Fields) -> Batch:
        found: Batch = self.convert.from_record_batch(self.label, result, fields)
        return found

    def absent(self, column: Column) -> Any:
        return self.column(column).is_null()

    def clears(self, column: Column) -> Column:
        import pyarrow as pa
        import pyarrow.compute as pc

        operations = pc.if_else(self.absent(column), pa.scalar(CLEAR, pa.uint8()), pa.scalar(PUT, pa.uint8()))
        return Column.from_arrow(operations, UINT8)

    def repeated(self, value: Any, rows: int) -> Any:
        import pyarrow as pa

        return pa.repeat(value, rows) if isinstance(value, (int, pa.Scalar)) else value

    def positions(self, keys: Any) -> tuple[Any, int]:
        import pyarrow as pa
        import pyarrow.compute as pc

        found = keys if isinstance(keys, (pa.Array, pa.ChunkedArray)) else pa.array(keys)
        found = pc.indices_nonzero(found) if pa.types.is_boolean(found.type) else found
        found = found.cast(pa.uint32()) if not len(found) else found
        return found, pc.max(found).as_py() if len(found) else -1


_FORMS = {"pandas": Pandas, "arrow": Arrow, "numpy": Numpy}


def form_of(label: str, func_type: str) -> Form:
    """The form of a func_type. Raises `package_missing`."""
    return _FORMS[func_type](label, converters(label, func_type))
