"""A runner whose work is known: SHA-256 over a block of 16 KiB, as many times as it is told.

    python runner.py BLOCKS

The time of a hash does not depend on where its bytes lie or what they are, and the block stays in the
nearest cache: two runners of 100 and of 105 blocks differ by 5% and by nothing else.
"""

import hashlib
import json
import sys
import time

BLOCK = bytes(range(256)) * 64


def main() -> int:
    """Say ready and answer until `exit` or the end of stdin."""
    blocks = int(sys.argv[1])
    say({"event": "ready", "load_ns": 0, "threads": 1})
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "exit":
            break
        if request["do"] == "time":
            say(timed(blocks, request["iterations"]))
        else:
            say({"error": f"unknown request {request['do']!r}; expected time or exit"})
    return 0


def timed(blocks: int, iterations: int) -> dict[str, list[int]]:
    """Return the wall and processor time of so many hashes."""
    wall, cpu = [], []
    for _ in range(iterations):
        cpu_before, wall_before = time.process_time_ns(), time.perf_counter_ns()
        digest = hashlib.sha256()
        for _ in range(blocks):
            digest.update(BLOCK)
        digest.digest()
        wall_after, cpu_after = time.perf_counter_ns(), time.process_time_ns()
        wall.append(wall_after - wall_before)
        cpu.append(cpu_after - cpu_before)
    return {"wall_ns": wall, "cpu_ns": cpu}


def say(message: dict[str, object]) -> None:
    """Write one answer and flush it."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
