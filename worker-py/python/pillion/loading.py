"""Finding user code and keeping it loaded."""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import linecache
import logging
import os
import pickle
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pillion.context import FunctionContext
from pillion.declare import ScalarFunction, UserDefinedFunction, callable_target
from pillion.errors import PillionError, summary
from pillion.metrics import Metrics
from pillion.stateful.declare import StatefulFunction

_logger = logging.getLogger("pillion")


class LoadedFunction:
    """A function of the worker, shared by every plan that names it and opened at most once."""

    def __init__(self, label: str, declared: UserDefinedFunction | StatefulFunction) -> None:
        self.label = label
        """`file.py:name` or `module:name`: how messages call it."""
        self.declared = declared
        self.metrics = Metrics(label)

    @property
    def udf(self) -> UserDefinedFunction:
        """The function, which is not a stateful one. Raises `plan_invalid` if it is."""
        if isinstance(self.declared, StatefulFunction):
            raise PillionError("plan_invalid", f"`{self.label}` is a stateful function", function=self.label)
        return self.declared

    def open(self) -> None:
        """Open it unless it is open. Raises `open_failed`; the next plan tries again."""
        try:
            self.declared.open(FunctionContext(self.label, self.metrics))
        except BaseException as exc:
            raise PillionError(
                "open_failed", f"`open` of `{self.label}` raised {summary(exc)}", function=self.label
            ) from exc

    def close(self) -> None:
        """Close it if it is open; what `close` raises is logged."""
        try:
            self.declared.close()
        except BaseException:
            _logger.exception("`close` of `%s` raised", self.label)


class Loader:
    """Loads functions by reference, each once per content of its file."""

    def __init__(self, *, allow_pickled_functions: bool, worker: str = "") -> None:
        """`worker` is empty unless several loaders share an interpreter. Then each loads files as modules of its own,
        and copies functions of importable modules, so that no two threads call the same object.
        """
        self._allow_pickled_functions = allow_pickled_functions
        self._worker = worker
        self._modules: set[str] = set()
        self._functions: dict[tuple[str, ...], LoadedFunction] = {}

    def load(self, function: Mapping[str, Any]) -> LoadedFunction:
        """The function that `{"file", "name"}`, `{"module", "name"}` or `{"pickled"}` means. Raises
        :class:`PillionError`.
        """
        if function.get("pickled") is not None:
            return self._pickled(function["pickled"])
        name = function["name"]
        if function.get("file") is not None:
            path = os.path.abspath(function["file"])
            source = _read(path)
            digest = hashlib.sha256(source).hexdigest()
            label = f"{os.path.basename(path)}:{name}"
            key: tuple[str, ...] = ("file", path, digest, name)
            return self._functions.get(key) or self._add(key, label, self._file(path, source, digest, label), name)
        label = f"{function['module']}:{name}"
        key = ("module", function["module"], name)
        return self._functions.get(key) or self._add(key, label, _module(function["module"], label), name)

    def close(self) -> None:
        """Close all functions; afterwards the loader is empty."""
        while self._functions:
            self._functions.popitem()[1].close()
        while self._modules:
            sys.modules.pop(self._modules.pop(), None)

    def _file(self, path: str, source: bytes, digest: str, label: str) -> ModuleType:
        module = _file_module(path, source, digest, label, self._worker)
        if self._worker:
            self._modules.add(module.__name__)
        return module

    def _add(self, key: tuple[str, ...], label: str, module: ModuleType, name: str) -> LoadedFunction:
        found = _attribute(module, name, label)
        if self._worker and key[0] == "module":
            found = _own(found, label)
        return self._keep(key, label, found)

    def _keep(self, key: tuple[str, ...], label: str, target: Any) -> LoadedFunction:
        try:
            udf = _declared(target, label)
        except PillionError as exc:
            exc.function = exc.function or label
            raise
        loaded = self._functions[key] = LoadedFunction(label, udf)
        return loaded

    def _pickled(self, data: bytes) -> LoadedFunction:
        if not self._allow_pickled_functions:
            hint = "name the function by file or module, or configure the sidecar with `functions.allow_pickled = true`"
            raise PillionError("pickle_refused", "functions sent as pickles are switched off", hint=hint)
        key = ("pickled", hashlib.sha256(data).hexdigest())
        if key in self._functions:
            return self._functions[key]
        label = f"pickled:{key[1][:12]}"
        try:
            target = pickle.loads(data)
        except BaseException as exc:
            message = f"the pickled function cannot be loaded: {summary(exc)}"
            raise PillionError(
                "import_failed", message, hint="cloudpickle must be in the environment", function=label
            ) from exc
        return self._keep(key, label, target)


def _own(found: Any, label: str) -> Any:
    """A copy of an object with state; the object itself if it cannot be copied, or has none. Raises
    `declaration_invalid` for a stateful function that cannot be copied: its cells show one worker's bundle at a time.
    """
    try:
        return found.copy() if isinstance(found, (UserDefinedFunction, StatefulFunction)) else copy.deepcopy(found)
    except Exception as exc:  # noqa: BLE001 - user code decides what copying does
        if not isinstance(found, StatefulFunction) and not getattr(found, "pillion_stateful", ""):
            return found
        raise PillionError(
            "declaration_invalid",
            f"`{label}` cannot be copied for each thread: {summary(exc)}",
            hint="make in `open` what cannot be copied, or run the function in process mode",
            function=label,
        ) from None


def _declared(found: Any, label: str) -> UserDefinedFunction | StatefulFunction:
    """The declaration of what was found, made for what has none."""
    if isinstance(found, (UserDefinedFunction, StatefulFunction)):
        return found
    if getattr(found, "pillion_stateful", ""):
        return StatefulFunction(_instance(found, label) if isinstance(found, type) else found)
    return UserDefinedFunction(_target(found, label))


def _target(found: Any, label: str) -> Any:
    """What an undecorated object means."""
    if isinstance(found, type) and issubclass(found, ScalarFunction):
        return _instance(found, label)
    return callable_target(found, label)


def _instance(found: type, label: str) -> Any:
    """An instance of a user's class, whose constructor is user code."""
    try:
        return found()
    except BaseException as exc:
        raise PillionError(
            "function_raised",
            f"`{found.__name__}()` raised {summary(exc)}",
            hint="a class is instantiated without arguments; name an instance instead if it needs some",
            function=label,
        ) from exc


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as exc:
        message = f"the file `{path}` cannot be read: {exc.strerror or exc}"
        raise PillionError("module_not_found", message, hint="check the path; it is seen from the worker") from None


def _file_module(path: str, source: bytes, digest: str, label: str, worker: str) -> ModuleType:
    """The module made from this content of the file for this worker; an edited file is another module."""
    stem = os.path.splitext(os.path.basename(path))[0]
    unique = hashlib.sha256(f"{path}\0{digest}\0{worker}".encode("utf-8", "surrogateescape")).hexdigest()[:12]
    name = f"{stem}__pillion_{unique}"
    if name in sys.modules:
        return sys.modules[name]
    folder = os.path.dirname(path)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as `python file.py` does, so that the file finds its neighbours
        importlib.invalidate_caches()
    loader = importlib.machinery.SourceFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise PillionError("import_failed", f"`{path}` cannot be imported", function=label)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look it up
    try:
        _remember_source(path, source)
        # Not by the loader, whose byte code cache goes by time and size: an edit may leave both as they were.
        exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
    except BaseException as exc:  # noqa: BLE001 - user code; `sys.exit` too must not end the worker
        sys.modules.pop(name, None)
        raise _import_error(exc, path, label) from _cause(exc)
    return module


def _module(name: str, label: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(exc.name + ".")):
            raise PillionError(
                "module_not_found",
                f"there is no module `{exc.name}` in the environment",
                hint="check its name, and the `paths` and `requirements` of the environment",
                function=label,
            ) from None
        raise _import_error(exc, name, label) from exc
    except BaseException as exc:  # noqa: BLE001 - user code; `sys.exit` too must not end the worker
        raise _import_error(exc, name, label) from _cause(exc)


def _import_error(exc: BaseException, what: str, label: str) -> PillionError:
    if isinstance(exc, PillionError):
        # A declaration in the module is wrong: its own code says more than `import_failed`.
        exc.function = exc.function or label
        return exc
    hint = ""
    if isinstance(exc, ModuleNotFoundError) and exc.name:
        hint = f"is `{exc.name.partition('.')[0]}` among the requirements of the environment?"
    return PillionError("import_failed", f"importing `{what}` raised {summary(exc)}", hint=hint, function=label)


def _cause(exc: BaseException) -> BaseException | None:
    return exc.__cause__ if isinstance(exc, PillionError) else exc


def _remember_source(path: str, source: bytes) -> None:
    """Keep the loaded text for tracebacks: the file may change while the worker lives."""
    try:
        text = importlib.util.decode_source(source)
    except (SyntaxError, UnicodeDecodeError):
        return  # compiling it will say so
    # Without a modification time `linecache` does not check the file again.
    linecache.cache[path] = (len(source), None, text.splitlines(keepends=True), path)


def _attribute(module: ModuleType, name: str, label: str) -> Any:
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            known = _functions_of(module)
            close = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"did you mean `{close[0]}`?"
                if close
                else f"it has: {', '.join(known[:10])}"
                if known
                else "it has no functions"
            )
            where = os.path.basename(getattr(module, "__file__", None) or module.__name__)
            raise PillionError("function_not_found", f"`{where}` has no `{name}`", hint=hint, function=label) from None
    return found


def _functions_of(module: ModuleType) -> list[str]:
    """Names of what could be run, defined in this module."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, (UserDefinedFunction, ScalarFunction, StatefulFunction))
        or ((inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__)
        if not name.startswith("_")
    ]
