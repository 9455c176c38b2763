"""A runner without a program: made-up samples, and every way a runner can go wrong."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
import zlib
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path)
    parser.add_argument("--name", default="")
    parser.add_argument("--base", type=int, default=1_000_000)
    parser.add_argument("--spread", type=float, default=0.001)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--die-at", type=int, default=-1)
    parser.add_argument("--misbehave", default="")
    arguments = parser.parse_args()
    if arguments.misbehave == "not-ready":
        sys.stderr.write("cannot open the program\nno such kernel: foo\n")
        return 3
    if arguments.misbehave == "cannot-load":
        say({"error": "RuntimeError: bad program"})
        return 1
    ready = {"event": "ready", "load_ns": 5, "threads": arguments.threads, "variable": os.environ.get("FAKE")}
    say(ready)
    number = -1
    for line in sys.stdin:
        request = json.loads(line)
        asked[:] = [line.rstrip("\n")] if request.pop("check", None) else []
        if request["do"] == "exit":
            return 0
        if request["do"] == "memory":  # asked beside the work: it counts for nothing here
            say({"peak_rss_bytes": 1 << 20})
            continue
        number += 1
        if arguments.log:
            with arguments.log.open("a") as log:
                log.write(json.dumps({"name": arguments.name, "pid": os.getpid(), **request}) + "\n")
        if number == arguments.die_at:
            sys.stderr.write("about to fall\nthe last straw\n")
            sys.stderr.flush()
            os.abort()
        time.sleep(arguments.delay)
        answer(request, arguments)
    return 0


def answer(request: dict, arguments: argparse.Namespace) -> None:
    if arguments.misbehave == "hang":
        time.sleep(600)
    if arguments.misbehave == "chatter":
        sys.stdout.write("Loading model...\n")
    if request["do"] == "echo":
        say({"echo": request})
    elif request["do"] == "time":
        count = request["iterations"] - (arguments.misbehave == "too-few")
        wall = [int(arguments.base * (1 + random.random() * arguments.spread)) for _ in range(count)]
        say({"wall_ns": wall, "cpu_ns": [w - 10 for w in wall]})
    else:
        say({"error": f"unknown request {request['do']!r}"})


asked = [""]  # what the next answer's check covers; empty for an answer without


def say(message: dict) -> None:
    text = json.dumps(message)
    for request in asked:
        text = f'{text[:-1]}, "crc32": "{zlib.crc32((request + text[:-1]).encode()):08x}"}}'
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
