"""A search on a made-up device in a process of its own, to be killed: prints its plan.

python -m tests.edgewright.searching_process FOLDER
"""

import sys
from pathlib import Path

from compiler.device import BenchmarkProtocol, DeviceProfile
from compiler.search.budget import parse_budget
from edgewright import compilation
from edgewright.search_setting import Setting
from tests.edgewright.test_searching import Clock, Paper, run

PROTOCOL = BenchmarkProtocol(
    settle_s=0, warmup_s=0, warmup_max_s=0, round_s=0.003, min_rounds=5, max_rounds=8, max_seconds=1e6
)
PROFILE = DeviceProfile("paper", "", "local", ("paper",), 1, protocol=PROTOCOL)


def main() -> None:
    folder = Path(sys.argv[1])
    compilation.verify_artifact = lambda *_: {}  # paper runs nowhere
    budget, out, database = parse_budget("0.8x"), folder / "out", folder / "measurements.db"
    setting = Setting(Paper(), PROFILE, Clock(), budget, out, database, methods=("precision", "rounding"))
    sys.stdout.write(run(setting).plan.text())


if __name__ == "__main__":
    main()
