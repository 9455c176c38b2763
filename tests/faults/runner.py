"""A runner whose answers are a known function of its seed and the request; runs on the faulty phone."""

import json
import sys
import zlib


def samples(seed: int, number: int, count: int) -> list[int]:
    """Return what this runner says it measured."""
    return [1_000_000 + zlib.crc32(f"{seed}/{number}/{i}".encode()) % 1_000_000 for i in range(count)]


def say(message: dict, asked: str) -> None:
    body = json.dumps(message)[:-1]
    sys.stdout.write(f'{body}, "crc32": "{zlib.crc32((asked + body).encode()):08x}"}}\n')
    sys.stdout.flush()


def main(seed: int) -> None:
    say({"event": "ready", "load_ns": seed, "threads": 1}, "")
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "exit":
            return
        wall = samples(seed, request["number"], request["iterations"])
        say({"wall_ns": wall, "cpu_ns": wall}, line.rstrip("\n"))


if __name__ == "__main__":
    main(int(sys.argv[1]))
