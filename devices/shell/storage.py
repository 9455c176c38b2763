"""Our private folder on a device, and what lies in it by the address of its content.

    PLACE/                     mode 0700, ours alone
      pushed/ADDRESS/NAME      a file or folder that arrived whole
      partial/ADDRESS/N        pieces that arrived of one that has not
      work/TOKEN/              workspaces

A file travels in pieces of `CHUNK` bytes, a folder as one archive of its content; a piece gets its
name when it is whole, so a push that broke off goes on at the piece it broke in. What arrived is
compared by size, and by SHA-256 where the device can tell it, before it gets its name.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compiler.device import Completed
from compiler.errors import DeviceError, UsageError
from devices.content import content_address, file_digest
from devices.shell.archive import write_archive
from devices.shell.port import Shell
from devices.shell.scripts import quoted

CHUNK = 64 << 20
VERIFY_S = 600.0
TRIES = 2

PREPARE = """
umask 077
root={place}
mkdir -p "$root/pushed" "$root/partial" "$root/work" || exit 3
if [ -L "$root" ] || [ "$(stat -c %u "$root")" != "$(id -u)" ]; then echo "$root is not ours" >&2; exit 3; fi
chmod 700 "$root" || exit 3
"""
# The sum of what a file or several say, or, where the device has no sha256sum, their size alone.
SUM = """
told() {
  if command -v sha256sum >/dev/null 2>&1; then sha256sum | cut -d' ' -f1; else wc -c | tr -d ' '; fi
}
same() { [ "$1" = "$digest" ] || [ "$1" = "$size" ]; }
"""


@dataclass(frozen=True)
class Storage:
    """The private folder of one device."""

    shell: Shell
    execute: Callable[[str, float, bool], Completed]
    place: str
    chunk: int = CHUNK

    def push(self, path: Path) -> str:
        """Bring a file or folder unless it is there; return its path on the device."""
        address, name = content_address(path), path.absolute().name
        size = -1 if path.is_dir() else path.stat().st_size
        root, pieces = self._look(address, name, size)
        target = f"{root}/pushed/{address}/{name}"
        if pieces is None:
            return target
        with _sent_form(path) as (file, digest):
            for attempt in range(TRIES):
                if self._bring(file, digest, f"{root}/partial/{address}", pieces, target, path):
                    return target
                pieces = {}
                self._check_unchanged(path, address, last=attempt == TRIES - 1)
        raise AssertionError("unreachable")

    def lay(self, path: Path, workspace: str) -> str:
        """Bring one file into a workspace; return its path on the device."""
        if not path.is_file():
            raise UsageError(f"cannot lay {str(path)!r} into a workspace: it is not a file")
        target, arriving = f"{workspace}/{path.name}", f"{workspace}/.{secrets.token_hex(8)}"
        size, digest = path.stat().st_size, file_digest(path)
        self.shell.send(blocks_of(path, 0, size, self.shell.block), arriving, _mode(path))
        script = f"""{_sums(digest, size)}
same "$(told <{quoted(arriving)})" || {{ rm -f {quoted(arriving)}; echo it arrived damaged >&2; exit 4; }}
chmod {_mode(path):o} {quoted(arriving)} && mv -f {quoted(arriving)} {quoted(target)}"""
        self._do(script, f"cannot push {str(path)!r}", VERIFY_S)
        return target

    def pull(self, remote: str, path: Path) -> None:
        """Copy a file from the device, whole or not at all."""
        what = f"cannot pull {remote!r}"
        told = self._do(
            f"{SUM}\n[ -f {quoted(remote)} ] || {{ echo no such file >&2; exit 1; }}\ntold <{quoted(remote)}",
            what,
        )
        try:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial") as private:
                copy = Path(private) / "copy"
                with copy.open("wb") as sink:
                    self.shell.receive(remote, sink)
                if told.stdout.strip() not in (file_digest(copy), str(copy.stat().st_size)):
                    raise DeviceError(
                        f"{what} from {self.shell.name}: it arrived damaged, or changed meanwhile"
                    )
                copy.replace(path)
        except OSError as error:
            raise DeviceError(f"{what} to {str(path)!r}: {error.strerror}") from error

    def make_workspace(self) -> str:
        """Make a private folder and return its path."""
        token = secrets.token_hex(8)
        script = f'{self._prepare()}\nmkdir "$root/work/{token}" && printf %s "$root/work/{token}"'
        return self._do(script, "cannot make a workspace").stdout

    def remove(self, workspace: str) -> None:
        """Remove a workspace."""
        self._do(f"rm -rf {quoted(workspace)}", f"cannot remove {workspace!r}", VERIFY_S)

    def clean(self) -> int:
        """Remove the private folder and nothing else; return the bytes it held."""
        script = f"""root={self.place}
[ -e "$root" ] || {{ echo 0; exit; }}
if [ -L "$root" ] || [ "$(stat -c %u "$root")" != "$(id -u)" ]; then echo "$root is not ours" >&2; exit 3; fi
du -sk "$root" | cut -f1
rm -rf "$root" """
        return 1024 * int(self._do(script, "cannot clean the device", VERIFY_S).stdout.strip() or 0)

    def _look(self, address: str, name: str, size: int) -> tuple[str, dict[int, int] | None]:
        """Return the folder's path, and the pieces there with their sizes, None when all is there."""
        test = (
            '[ -d "$there" ]' if size < 0 else f'[ -f "$there" ] && [ "$(stat -c %s "$there")" -eq {size} ]'
        )
        script = f"""{self._prepare()}
printf '%s\\n' "$root"
there="$root"/pushed/{address}/{quoted(name)}
if {test}; then echo there; exit; fi
mkdir -p "$root/partial/{address}" && cd "$root/partial/{address}" || exit 3
for piece in [0-9]*; do case $piece in *[!0-9]*) ;; *) stat -c "$piece %s" "$piece";; esac; done"""
        root, *lines = self._do(script, f"cannot push {name!r}", repeatable=True).stdout.splitlines()
        if lines == ["there"]:
            return root, None
        return root, {int(piece): int(held) for piece, held in map(str.split, lines)}

    def _bring(
        self, file: Path, digest: str, partial: str, there: dict[int, int], target: str, path: Path
    ) -> bool:
        """Send the pieces that are not there and give the whole its name; False where it is damaged."""
        size, what = file.stat().st_size, f"cannot push {str(path)!r}"
        starts = range(0, max(size, 1), self.chunk)
        named = "set -e\numask 077"
        for number, start in enumerate(starts):
            length = min(self.chunk, size - start)
            if there.get(number) == length:
                continue
            arriving = f"{partial}/arriving-{secrets.token_hex(4)}"
            self.shell.send(blocks_of(file, start, length, self.shell.block), arriving, 0o600)
            named = f"{named}\nmv {quoted(arriving)} {quoted(partial)}/{number}"
            if number < len(starts) - 1:
                self._do(named, what)
                named = "set -e\numask 077"
        finish = _finish_folder if path.is_dir() else _finish_file
        script = f"{named}\n{_sums(digest, size)}{_join(partial, len(starts))}{finish(target, _mode(path))}"
        return self._do(script, what, VERIFY_S).stdout.strip() != "damaged"

    def _check_unchanged(self, path: Path, address: str, last: bool) -> None:
        if content_address(path) != address:
            raise DeviceError(f"{str(path)!r} changed while it was being pushed")
        if last:
            raise DeviceError(f"{str(path)!r} arrived damaged on {self.shell.name}, {TRIES} times")

    def _prepare(self) -> str:
        return PREPARE.format(place=self.place)

    def _do(self, script: str, what: str, timeout_s: float = 60.0, repeatable: bool = False) -> Completed:
        """Run a script that must succeed."""
        done = self.execute(script, timeout_s, repeatable)
        if done.exit_code != 0:
            why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.exit_code}"]
            raise DeviceError(f"{what} on {self.shell.name}: {why[0]}")
        return done


def _sums(digest: str, size: int) -> str:
    return f"digest={digest} size={size}\n{SUM}"


def _join(partial: str, count: int) -> str:
    """Check the pieces together and make them one, the first; on a mismatch all of them go."""
    pieces = " ".join(map(str, range(count)))
    joined = "".join(f"cat {i} >>0; rm {i}\n" for i in range(1, count))
    return f"""cd {quoted(partial)}
same "$(cat {pieces} | told)" || {{ rm -f {pieces}; echo damaged; exit 0; }}
{joined}"""


def _finish_file(target: str, mode: int) -> str:
    folder = os.path.dirname(target)
    return f"""chmod {mode:o} 0
mkdir -p {quoted(folder)}
mv -f 0 {quoted(target)}
rm -rf "$PWD" """


def _finish_folder(target: str, mode: int) -> str:
    folder = os.path.dirname(target)
    return f"""rm -rf tree
mkdir tree
tar -x -f 0 -C tree || {{ rm -rf tree; exit 5; }}
mkdir -p {quoted(folder)}
[ -e {quoted(target)} ] || mv tree/content {quoted(target)}
rm -rf "$PWD" """


@contextmanager
def _sent_form(path: Path) -> Iterator[tuple[Path, str]]:
    """Give the file that travels for a file or folder, and its SHA-256."""
    if not path.is_dir():
        yield path, file_digest(path)
        return
    with tempfile.TemporaryDirectory(prefix="edgewright-") as private:
        archive = Path(private) / "archive.tar"
        write_archive(path, archive)
        yield archive, file_digest(archive)


def blocks_of(path: Path, start: int, length: int, block: int) -> Iterator[bytes]:
    """Give a part of a file in blocks."""
    with path.open("rb", buffering=0) as stream:
        stream.seek(start)
        while length > 0 and (data := stream.read(min(block, length))):
            yield data
            length -= len(data)


def _mode(path: Path) -> int:
    return 0o700 if os.access(path, os.X_OK) else 0o600
