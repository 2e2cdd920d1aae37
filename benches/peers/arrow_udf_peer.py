"""arrow-udf: its Python server in a process of its own, and a Flight client here."""

import json
import socket
import subprocess
import sys
import time

from common import batches, check, installed, paced, serve, table


def server(port):
    from arrow_udf import UdfServer, udf

    @udf(input_types=["INT64", "INT64"], result_type="INT64", batch=True)
    def add(a, b):
        return [x + y for x, y in zip(a, b)]

    @udf(input_types=["VARCHAR"], result_type="VARCHAR", name="json")
    def name(text):
        return json.loads(text)["customer"]["name"]

    server = UdfServer(location=f"127.0.0.1:{port}")
    server.add_function(add)
    server.add_function(name)
    server.serve()


class ArrowUdf:
    def __init__(self):
        import pyarrow.flight as flight

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.server = subprocess.Popen([sys.executable, __file__, "--serve", str(port)], stdout=sys.stderr)
        self.client = flight.FlightClient(f"grpc://127.0.0.1:{port}")
        self.client.wait_for_available(30)
        self.flight = flight
        self.tables = {}

    def versions(self):
        return installed("arrow-udf", "pyarrow")

    def whole(self, work):
        if work not in self.tables:
            self.tables[work] = table(work)
        return self.tables[work]

    def exchange(self, work):
        descriptor = self.flight.FlightDescriptor.for_path(work)
        writer, reader = self.client.do_exchange(descriptor)
        writer.begin(self.whole(work).schema)
        return writer, reader

    def answers(self, work, rows):
        """Batch by batch; two are under way, so that client and server overlap."""
        writer, reader = self.exchange(work)
        under_way = 0
        for batch in batches(self.whole(work), rows):
            writer.write_batch(batch)
            under_way += 1
            if under_way == 2:
                yield reader.read_chunk().data.column(0)
                under_way -= 1
        writer.done_writing()
        while under_way:
            yield reader.read_chunk().data.column(0)
            under_way -= 1
        writer.close()

    def run(self, work, rows):
        self.whole(work)
        begun = time.perf_counter()
        count = figure = 0
        for column in self.answers(work, rows):
            count += len(column)
            figure += check(work, column)
        return time.perf_counter() - begun, count, figure

    def values(self, work, rows):
        return [value for column in self.answers(work, rows) for value in column.to_pylist()]

    def latency(self, work, count, rate):
        writer, reader = self.exchange(work)
        row = self.whole(work).to_batches()[0].slice(0, 1)

        def call():
            writer.write_batch(row)
            reader.read_chunk()

        us = paced(call, count, rate)
        writer.close()
        return us, "over one open exchange"

    def close(self):
        self.server.terminate()
        self.server.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        server(int(sys.argv[2]))
    else:
        serve(ArrowUdf())
