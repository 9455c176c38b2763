"""The faulty phone from this side: start the daemon in its root, and ask it for a new life per seed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child")


class FaultyPhone:
    """A daemon that runs; `data` is its /data/local/tmp."""

    def __init__(self, process: subprocess.Popen[str], data: Path) -> None:
        self._process = process
        self.data = data

    def live(
        self,
        seed: int = 0,
        chances: Mapping[str, float] | None = None,
        after: int = 0,
        keys: Sequence[str] = (),
    ) -> int:
        """Begin a new life, with empty storage and no processes; return the port."""
        request = {"seed": seed, "chances": dict(chances or {}), "after": after, "keys": list(keys)}
        return int(self._ask(request)["port"])

    def calm(self) -> int:
        """Return a port to the same phone, as it is now, over a link without faults."""
        return int(self._ask({"calm": True})["port"])

    def struck(self) -> dict[str, int]:
        """Return how often each fault struck in this life."""
        return dict(self._ask({"report": True})["struck"])

    def _ask(self, request: dict[str, object]) -> dict[str, object]:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the faulty daemon ended with code {self._process.wait()}")
        return json.loads(line)


@contextmanager
def faulty_phone(folder: Path) -> Iterator[FaultyPhone]:
    """Start a daemon that keeps its files below `folder`, and end all of it afterwards."""
    root, data = folder / "root", folder / "data"
    root.mkdir(parents=True)
    data.mkdir()
    daemon = (str(Path(sys._base_executable).resolve()), "-m", "tests.faults.daemon")
    process = subprocess.Popen(
        [*NAMESPACES, "sh", str(HERE / "root.sh"), root, data, HERE, sys.base_prefix, *daemon],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield FaultyPhone(process, data)
    finally:
        process.kill()  # `unshare` takes the first process of the namespace with it, and that takes all
        process.wait()
        process.stdin.close()
        process.stdout.close()
