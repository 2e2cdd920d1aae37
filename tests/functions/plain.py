"""Functions of the end-to-end tests that need no package but `pillion`."""

import ctypes
import json
import logging
import os
import random
import signal
import sys
import threading
import time

from pillion import ScalarFunction, udf


@udf(result_type="bigint")
def add(a, b):
    return None if a is None or b is None else a + b


@udf(result_type="bigint")
def identity(a):
    return a


@udf(result_type="string")
def name_of(text):
    return json.loads(text)["name"]


@udf(result_type="double")
def divide(a, b):
    return a / b


@udf(result_type="bigint")
def slow(a):
    time.sleep(0.002)
    return a


@udf(result_type="bigint")
def sleep_milliseconds(a):
    time.sleep(a / 1000)
    return a


@udf(result_type="bigint")
def sleep_for_ever_on_13(a):
    if a == 13:
        time.sleep(3600)
    return a


@udf(result_type="bigint")
def spin_for_ever_on_13(a):
    while a == 13:
        pass
    return a


@udf(result_type="bigint")
def segfault_on_13(a):
    if a == 13:
        ctypes.string_at(0)
    return a


@udf(result_type="bigint")
def exit_on_13(a):
    if a == 13:
        os._exit(7)
    return a


@udf(result_type="bigint")
def sys_exit_on_13(a):
    if a == 13:
        sys.exit("enough")
    return a


@udf(result_type="bigint")
def kill_self_on_13(a):
    if a == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return a


@udf(result_type="bigint")
def abort_on_13(a):
    if a == 13:
        print("last words", file=sys.stderr, flush=True)
        os.abort()
    return a


@udf(result_type="bigint")
def eat_memory_on_13(a):
    if a == 13:
        block = bytearray(600 << 20)
        for at in range(0, len(block), 4096):
            block[at] = 1
        time.sleep(3600)
    return a


@udf(result_type="bigint")
def ask_for_too_much_on_13(a):
    return a if a != 13 else len(bytearray(1 << 60))


@udf(result_type="bigint")
def fork_on_13(a):
    # The child returns into the worker's loop, which must not go on there.
    if a == 13 and os.fork() != 0:
        os.wait()
    return a


@udf(result_type="bigint")
def print_a_lot(a):
    print("x" * 1_000_000)
    print("y" * 1_000_000, file=sys.stderr)
    return a


@udf(result_type="bigint")
def log_something(a):
    logging.getLogger("mine").warning("value %d", a)
    return a


@udf(result_type="bigint")
def raise_on_13(a):
    if a == 13:
        raise ValueError("thirteen is not allowed")
    return a


@udf(result_type="bigint not null")
def null_on_13(a):
    return None if a == 13 else a


@udf(result_type="bigint")
def text_instead(a):
    return f"number {a}"


@udf(result_type="bigint")
def pid(a):
    return os.getpid()


@udf(result_type="double")
def random_number(a):
    return random.random()


class Counter(ScalarFunction):
    """Counts how often it was opened in this worker."""

    def open(self, context):
        self.opened = getattr(self, "opened", 0) + 1

    def eval(self, a):
        return self.opened


counter = udf(Counter(), result_type="bigint")


class Closing(ScalarFunction):
    """Leaves a file when it is closed."""

    def eval(self, path):
        self.path = path
        return path

    def close(self):
        with open(self.path, "a") as out:
            out.write("closed\n")


closing = udf(Closing(), result_type="string")


class Unopenable(ScalarFunction):
    def open(self, context):
        raise RuntimeError("no model here")

    def eval(self, a):
        return a


unopenable = udf(Unopenable(), result_type="bigint")


@udf(result_type="string")
def large(a):
    return "x" * 100_000


calls = 0


@udf(result_type="bigint")
def calls_of_this_worker(a):
    """Counts in a global of the module; slow, so that several workers are used."""
    global calls
    calls += 1
    time.sleep(0.05)
    return calls


@udf(result_type="string")
def spin_until_abandoned(path):
    try:
        while True:
            pass
    finally:
        with open(path, "w") as out:
            out.write("abandoned")


@udf(result_type="bigint")
def thread(a):
    return threading.get_native_id()


NOT_A_FUNCTION = 42
