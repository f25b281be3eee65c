"""Logs that nobody reads hold nobody up."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time

from process.lossy_stream import LossyStream


def test_lines_come_out_whole_and_in_order() -> None:
    reading, writing = os.pipe()
    stream = LossyStream(writing)
    threads = [
        threading.Thread(
            target=lambda name=name: [stream.write(f"{name} {n}\n") for n in range(99)]
        )
        for name in "abc"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stream.drain(10)
    lines = os.read(reading, 1 << 16).decode().splitlines()
    for name in "abc":
        mine = [line for line in lines if line.startswith(name)]
        assert mine == [f"{name} {n}" for n in range(99)]
    os.close(reading)
    os.close(writing)


def test_what_nobody_reads_is_dropped_and_counted() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    stream = LossyStream(writing, most_bytes=10_000)
    begun = time.monotonic()
    for _ in range(5000):
        stream.write("x" * 99 + "\n")
    assert time.monotonic() - begun < 5, "the pipe is full long since"
    assert not stream.drain(0.1)
    found, kept, dropped = b"", 0, 0
    # The thread that writes may have begun late, and told of what was dropped until then.
    while kept + dropped < 5000:
        found += os.read(reading, 1 << 16)
        *lines, found = found.split(b"\n")
        for line in lines:
            told = b"were dropped" in line
            assert told or len(line) == 99
            kept += not told
            dropped += json.loads(line)["lines"] if told else 0
    assert kept + dropped == 5000
    assert dropped > 4000
    assert stream.drain(10)
    os.close(reading)
    os.close(writing)


def test_the_last_words_of_a_process_are_written() -> None:
    code = (
        "import structlog; from process import logs; logs.configure('json');"
        "[structlog.get_logger().info('line', n=n) for n in range(500)]"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert len(ended.stderr.splitlines()) == 500


def test_a_process_whose_log_is_not_read_goes_on() -> None:
    reading, writing = os.pipe()
    code = (
        "import structlog; from process import logs; logs.configure('json');"
        "[structlog.get_logger().info('line', n=n, x='y'*200) for n in range(5000)]; print('on')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writing, text=True
    )
    out, _ = process.communicate(timeout=60)
    assert out == "on\n"
    os.close(reading)
    os.close(writing)
