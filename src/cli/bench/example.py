"""The built-in example of `pillion bench`: two columns added, with pyarrow if it is there, else with pandas, else row by row."""

from pillion import udf

try:
    import pyarrow.compute as pc
except ImportError:
    pc = None
try:
    import pandas
except ImportError:
    pandas = None

if pc is not None:

    @udf(result_type="bigint", func_type="arrow")
    def add(a, b):
        return pc.add(a, b)

elif pandas is not None:

    @udf(result_type="bigint", func_type="pandas")
    def add(a, b):
        return a + b

else:

    @udf(result_type="bigint")
    def add(a, b):
        return a + b
