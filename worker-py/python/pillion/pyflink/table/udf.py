"""Scalar functions."""

from pillion import FunctionContext, ScalarFunction, udf

__all__ = ["FunctionContext", "ScalarFunction", "udf"]
