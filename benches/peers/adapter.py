"""The runner's end of an adapter: requests and answers, each in bounded time."""

import json
import selectors
import subprocess
import time

# Longest time for one answer, in seconds; the first includes the start of a JVM.
LONGEST = 180


class Failed(Exception):
    """A side that cannot go on, and why."""


class Adapter:
    def __init__(self, command, log):
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        except OSError as error:
            raise Failed(f"{command[0]} cannot be started: {error.strerror}") from error
        self.left = b""

    def ask(self, do, **request):
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            # It has ended; what it said before that is the reason.
            pass
        answer = json.loads(self._line())
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def _line(self):
        until = time.monotonic() + LONGEST
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.left:
                if not selector.select(until - time.monotonic()):
                    self.process.kill()
                    raise Failed(f"no answer within {LONGEST} s")
                part = self.process.stdout.read1()
                if not part:
                    raise Failed(f"the adapter ended with status {self.process.wait()}")
                self.left += part
        line, _, self.left = self.left.partition(b"\n")
        return line

    def is_over(self):
        return self.process.poll() is not None

    def end(self):
        """Asks it to end, and makes sure of it."""
        try:
            self.process.stdin.close()
            self.process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
