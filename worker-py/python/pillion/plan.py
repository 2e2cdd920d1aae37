"""A plan made ready: checked against the input's types once, then called batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pillion._native import Batch, Column, Type
from pillion.calls import MapCall, ScalarCall, map_call, scalar_call
from pillion.errors import PillionError
from pillion.loading import LoadedFunction
from pillion.signature import Signature, check_argument, check_count

Fields = list[tuple[str, Type]]
Source = tuple[str, int]
"""`("column", i)`: an input column; `("call", i)`: the result of an earlier call."""


FAIL, NULL, SKIP, SIDE = range(1, 5)
"""What becomes of a row that raises: `OnError` in `proto/pillion/v1/host.proto`."""


class PreparedPlan:
    """Calls in order, each fed from input columns or earlier calls. Made by
    :meth:`pillion._runtime.Runtime.prepare`.
    """

    def __init__(
        self,
        calls: Sequence[tuple[LoadedFunction, Signature, Sequence[Source]]],
        outputs: Sequence[tuple[str, Source]],
        fields: Fields,
        *,
        null_on_error: bool,
        name: str,
        descriptions: list[dict[str, Any]],
    ) -> None:
        self.functions = descriptions
        self.metrics = list({id(loaded): loaded.metrics for loaded, _, _ in calls}.values())
        """Of its functions, each once. The native side takes or drops what they gained after each call."""
        self.name = name or ", ".join(loaded.label for loaded, _, _ in calls)
        self._map: MapCall | None = None
        self._steps: list[_Step] = []
        self._outputs: list[Source] = []
        for loaded, _, _ in calls:
            _check_on_error(loaded, null_on_error)
        if not outputs:
            loaded, signature = _only_map(calls)
            self.output: Fields = signature.result.children if signature.result is not None else list(fields)
            self._map = map_call(loaded.label, loaded.udf.func_type, loaded.udf.function, self.output)
            return
        results: list[Type] = []
        for loaded, signature, arguments in calls:
            self._steps.append(_Step(loaded, signature, arguments, fields, results, null_on_error))
            results.append(self._steps[-1].result)
        self._outputs = [_checked(source, len(fields), len(results)) for _, source in outputs]
        types = [fields[i][1] if kind == "column" else results[i] for kind, i in self._outputs]
        self.output = [(name, one) for (name, _), one in zip(outputs, types)]

    def call(self, batch: Batch) -> tuple[Batch, int]:
        """The output for one batch, and the nanoseconds spent in user code. An empty batch calls no function."""
        if batch.num_rows == 0:
            return _empty(self.output), 0
        if self._map is not None:
            return self._map(batch)
        inputs, user_ns = batch.columns, 0
        results: list[Column] = []
        for step in self._steps:
            column, elapsed = step.call(step.arguments(inputs, results), batch.num_rows)
            results.append(column)
            user_ns += elapsed
        columns = [inputs[i] if kind == "column" else results[i] for kind, i in self._outputs]
        return Batch.from_columns(columns, [name for name, _ in self.output], batch.num_rows), user_ns


class _Step:
    """One scalar call of a plan."""

    def __init__(
        self,
        loaded: LoadedFunction,
        signature: Signature,
        sources: Sequence[Source],
        fields: Fields,
        results: Sequence[Type],
        null_on_error: bool,
    ) -> None:
        udf = loaded.udf
        if udf.kind != "scalar" or signature.result is None:
            raise _plan_invalid(
                f"`{loaded.label}` is a map function, which must be the only call of a plan without outputs",
                loaded.label,
            )
        try:
            check_count(udf, signature, len(sources))
            self._sources = [_checked(source, len(fields), len(results)) for source in sources]
            self._casts: list[Type | None] = []
            for position, (kind, i) in enumerate(self._sources):
                parameter = signature.parameter(position)
                name, given = fields[i] if kind == "column" else (parameter.name, results[i])
                self._casts.append(check_argument(udf, parameter, position, name, given))
        except PillionError as exc:
            exc.function = exc.function or loaded.label
            raise
        self._label = loaded.label
        self.result = signature.result
        if null_on_error:
            self.result = self.result.with_nullable(True)
        names = [signature.parameter(i).name for i in range(len(self._sources))]
        self.call: ScalarCall = scalar_call(
            loaded.label, udf.func_type, udf.function, self.result, names, null_on_error
        )

    def arguments(self, inputs: Sequence[Column], results: Sequence[Column]) -> list[Column]:
        """The columns to call with, converted to declared input types."""
        found = []
        for (kind, i), cast in zip(self._sources, self._casts):
            column = inputs[i] if kind == "column" else results[i]
            if cast is not None:
                try:
                    column = Column.from_arrow(column, cast, column.name)
                except (TypeError, ValueError) as exc:
                    message = f"column `{column.name}` cannot be given to `{self._label}` as `{cast}`: {exc}"
                    raise PillionError("argument_type", message, function=self._label) from exc
            found.append(column)
        return found


def _checked(source: Source, num_columns: int, num_calls: int) -> Source:
    kind, i = source
    if kind not in ("column", "call"):
        raise _plan_invalid(f"a source is a column or a call, not `{kind}`")
    limit = num_columns if kind == "column" else num_calls
    if not 0 <= i < limit:
        raise _plan_invalid(f"there is no {kind} {i}: the plan has {limit} before it")
    return kind, i


def _only_map(calls: Sequence[tuple[LoadedFunction, Signature, Sequence[Source]]]) -> tuple[LoadedFunction, Signature]:
    """The map function of a plan without outputs. A scalar function with a row for a result will do, as in PyFlink's
    `table.map`.
    """
    if len(calls) != 1:
        raise _plan_invalid("a plan without outputs has exactly one call, of a map function")
    loaded, signature, _ = calls[0]
    rows = signature.result is not None and signature.result.kind == "struct"
    if loaded.udf.kind != "map" and not rows:
        raise _plan_invalid(
            f"`{loaded.label}` is a scalar function, so the plan must name its output column", loaded.label
        )
    return loaded, signature


def _check_on_error(loaded: LoadedFunction, null_on_error: bool) -> None:
    if null_on_error and (loaded.udf.func_type != "general" or loaded.udf.kind != "scalar"):
        raise PillionError(
            "plan_invalid",
            f"`{loaded.label}` is called with whole batches, so that a failing row cannot become null",
            hint="use `on_error = fail`, or a general scalar function",
            function=loaded.label,
        )


def _plan_invalid(message: str, function: str = "") -> PillionError:
    return PillionError("plan_invalid", message, function=function)


def _empty(fields: Iterable[tuple[str, Type]]) -> Batch:
    named = list(fields)
    return Batch.from_columns(
        [Column.from_pylist([], kind, name) for name, kind in named], [name for name, _ in named], 0
    )
