"""What a worker runs in tests of the process machinery: connects to the endpoint, says who it is, and does what the token names."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading


def serve(settings):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(settings["endpoint"])

    def say(**values):
        connection.sendall(json.dumps(values).encode() + b"\n")

    say(id=settings["id"], pid=os.getpid(), parent=os.getppid(), session=os.getsid(0))
    command, _, argument = settings["token"].partition(":")
    return COMMANDS[command](say, argument) or 0


def leave(say, argument):
    return int(argument)


def wait(say, argument):
    while True:
        signal.pause()


def describe(say, argument):
    numpy = sys.modules.get("numpy")
    say(
        path=sys.path,
        cwd=os.getcwd(),
        descriptors=len(os.listdir("/proc/self/fd")) - 1,
        stdin=os.readlink("/proc/self/fd/0"),
        arguments=open("/proc/self/cmdline").read().split("\0"),
        variables={name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "GIVEN", "PILLION_SECRET")},
        random=random.random(),
        numpy_random=numpy and numpy.random.random(),
        modules=[name for name in ("preloaded", "fractions") if name in sys.modules],
        default_sigchld=signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
    )


def emit(say, argument):
    """Writes as told: `stream,bytes as hex,times`."""
    stream, data, times = argument.split(",")
    target = {"stdout": 1, "stderr": 2}[stream]
    block = bytes.fromhex(data) * int(times)
    while block:
        block = block[os.write(target, block) :]


def grandchildren(say, argument):
    """Leaves a forked child, and a child of another program, in its group."""
    forked = os.fork()
    if forked == 0:
        while True:
            signal.pause()
    other = subprocess.Popen(["sleep", "1000"])
    say(children=[forked, other.pid])
    if argument == "exit":
        os._exit(0)
    while True:
        signal.pause()


def daemon(say, argument):
    """Leaves a program that is no longer its child, in a session of its own."""
    starter = "import subprocess; print(subprocess.Popen(['sleep', '1000'], start_new_session=True).pid, flush=True)"
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE) as process:
        say(child=int(process.stdout.readline()))
    return COMMANDS[argument](say, "0")


def crash(say, argument):
    os.kill(os.getpid(), signal.SIGSEGV)


def raise_error(say, argument):
    raise ValueError("raised on purpose")


def stubborn(say, argument):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=signal.pause, daemon=True).start()
    say(ready=True)
    while True:
        signal.pause()


COMMANDS = {
    function.__name__: function for function in (leave, wait, describe, emit, grandchildren, daemon, crash, raise_error, stubborn)
}


if __name__ == "__main__":
    os.setsid()
    with open(0, closefd=False) as file:
        settings = json.load(file)
    sys.path[1:1] = settings["paths"]
    os.chdir(settings["cwd"])
    sys.exit(serve(settings))
