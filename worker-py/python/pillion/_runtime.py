"""What the worker's native loop calls. One instance per worker, on its one Python thread."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pillion import errors
from pillion._native import Type, schema_to_ipc
from pillion.declare import UserDefinedFunction
from pillion.errors import PillionError
from pillion.loading import LoadedFunction, Loader
from pillion.plan import FAIL, NULL, SIDE, SKIP, PreparedPlan
from pillion.signature import Signature, signature_of
from pillion.stateful.declare import StatefulFunction
from pillion.stateful.outputs import Output
from pillion.types import to_type

if TYPE_CHECKING:
    from pillion.stateful.prepare import PreparedProcess

ALLOW_PICKLED_FUNCTIONS = "PILLION_ALLOW_PICKLED_FUNCTIONS"
"""Set to `1` by a sidecar whose configuration allows functions sent by value."""

_ALONE = "use `on_error = fail`, or `null` with a general scalar function"

# The packages that conversions use.
_PACKAGES = ("numpy", "pandas", "pyarrow", "polars")


class Runtime:
    """Loads, describes, prepares; every method may raise, and :meth:`error_record` then says what."""

    def __init__(self, *, allow_pickled_functions: bool | None = None, worker: str = "") -> None:
        """`worker` is the id of a worker of thread mode, which shares the interpreter with others."""
        if allow_pickled_functions is None:
            allow_pickled_functions = os.environ.get(ALLOW_PICKLED_FUNCTIONS) == "1"
        self._loader = Loader(allow_pickled_functions=allow_pickled_functions, worker=worker)

    def environment(self) -> dict[str, Any]:
        """The interpreter, and the versions of the packages that conversions use."""
        return {
            "python_version": platform.python_version(),
            "executable": sys.executable or "",
            "packages": dict(_package_versions()),
        }

    def describe(self, function: Mapping[str, Any]) -> dict[str, Any]:
        """Load a function and say what it is; it is not opened."""
        loaded = self._loader.load(function)
        udf = loaded.declared
        if isinstance(udf, StatefulFunction):
            return self._describe_stateful(loaded, udf, function)
        signature = self._signature(loaded, udf, function)
        return describe(loaded.label, udf, signature)

    def prepare(self, plan: Mapping[str, Any]) -> PreparedPlan | PreparedProcess:
        """Load, check and open the functions of a plan. One with a stateful function has no other; then `inputs` are
        the fields of each input, and `keys` those of the key.
        """
        calls = []
        descriptions = []
        on_error = plan.get("on_error") or FAIL
        for call in plan["calls"]:
            loaded = self._loader.load(call["function"])
            udf = loaded.declared
            if isinstance(udf, StatefulFunction):
                return self._prepare_stateful(loaded, plan)
            if on_error in (SKIP, SIDE):
                message = f"`{loaded.label}` keeps no state: only rows of keyed functions can be skipped or sent aside"
                raise PillionError("plan_invalid", message, hint=_ALONE, function=loaded.label)
            signature = self._signature(loaded, udf, call["function"])
            calls.append((loaded, signature, call["arguments"]))
            descriptions.append(describe(loaded.label, udf, signature))
        prepared = PreparedPlan(
            calls,
            plan["outputs"],
            plan["input"],
            null_on_error=on_error == NULL,
            name=plan.get("session_name") or plan.get("session_id") or "",
            descriptions=descriptions,
        )
        for loaded, _, _ in calls:
            loaded.metrics.limit = plan.get("max_metric_series") or loaded.metrics.limit
            loaded.open()
        return prepared

    def error_record(self, exc: BaseException) -> dict[str, Any]:
        """`exc` as plain data."""
        return errors.error_record(exc)

    def close(self) -> None:
        """Close all open functions."""
        self._loader.close()

    def _describe_stateful(
        self, loaded: LoadedFunction, udf: StatefulFunction, function: Mapping[str, Any]
    ) -> dict[str, Any]:
        """A stateful function declares cells when it is opened: it is opened to be described."""
        from pillion.stateful.prepare import describe as describe_stateful

        loaded.open()
        override = function.get("result_type")
        return describe_stateful(loaded.label, udf, Output.of(override) if override else udf.output, udf.store)

    def _prepare_stateful(self, loaded: LoadedFunction, plan: Mapping[str, Any]) -> PreparedProcess:
        from pillion.stateful.prepare import PreparedProcess

        calls = plan["calls"]
        if len(calls) != 1:
            message = f"`{loaded.label}` is a stateful function, which must be the only call of its plan"
            raise PillionError("plan_invalid", message, function=loaded.label)
        on_error = plan.get("on_error") or FAIL
        if on_error == NULL:
            message = f"`{loaded.label}` is a stateful function, of which a failing row cannot become null"
            hint = "use `on_error = fail`, `skip` or `side`"
            raise PillionError("plan_invalid", message, hint=hint, function=loaded.label)
        loaded.metrics.limit = plan.get("max_metric_series") or loaded.metrics.limit
        return PreparedProcess(
            loaded,
            plan.get("inputs") or [plan["input"]],
            plan.get("keys"),
            result_type=calls[0]["function"].get("result_type") or None,
            name=plan.get("session_name") or plan.get("session_id") or "",
            on_error=on_error,
        )

    def _signature(self, loaded: LoadedFunction, udf: UserDefinedFunction, function: Mapping[str, Any]) -> Signature:
        override = function.get("result_type")
        try:
            return signature_of(udf, to_type(override) if override else None)
        except PillionError as exc:
            exc.function = exc.function or loaded.label
            raise


@lru_cache(maxsize=1)
def _package_versions() -> dict[str, str]:
    """Slow to read, and the same for the worker's life: a fork server reads them for all its workers."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def describe(label: str, udf: UserDefinedFunction, signature: Signature) -> dict[str, Any]:
    """The description that travels to the host (`FunctionDescription` in `proto/pillion/v1/function.proto`)."""
    result = signature.result
    fields: list[tuple[str, Type]] = []
    if result is not None:
        fields = result.children if udf.kind == "map" else [(udf.name, result)]
    return {
        "name": label,
        "kind": udf.kind,
        "func_type": udf.func_type,
        "parameters": [
            {
                "name": one.name,
                "type": "" if one.type is None else str(one.type),
                "optional": one.optional,
                "variadic": one.variadic,
            }
            for one in signature.parameters
        ],
        "result_schema": schema_to_ipc(fields) if fields else b"",
        "result_type": "" if result is None else str(result),
        "deterministic": udf.deterministic,
        "doc": udf.__doc__ or "",
    }
