"""`DataTypes`, and scalar functions."""

from pillion import DataTypes
from pillion.pyflink.table.udf import FunctionContext, ScalarFunction, udf

__all__ = ["DataTypes", "FunctionContext", "ScalarFunction", "udf"]
