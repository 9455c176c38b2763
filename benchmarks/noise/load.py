"""A competing load: burns one CPU, on and off for random times, until stdin ends.

python load.py CPU SEED MEAN_SECONDS
"""

import os
import random
import select
import sys
import time


def main() -> int:
    """Alternate between burning and waiting."""
    cpu, seed, mean_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    os.sched_setaffinity(0, {cpu})
    draw = random.Random(seed)
    on = draw.random() < 0.5
    while True:
        end = time.monotonic() + draw.expovariate(1 / mean_s)
        while time.monotonic() < end:
            # Whoever started this holds the other end of stdin: when it is gone, so is the load.
            if select.select([sys.stdin], [], [], 0.0 if on else 0.02)[0]:
                return 0
            burn(200_000 if on else 0)
        on = not on


def burn(steps: int) -> None:
    """Use processor time and nothing else."""
    for _ in range(steps):
        pass


if __name__ == "__main__":
    sys.exit(main())
