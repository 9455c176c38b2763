"""start, stop, set and status of the stand-in phone. Standard library only; Linux x86-64."""

import argparse
import base64
import json
import os
import shutil
import signal
import socket
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import answers
import fakecpu
import world


def main():
    given = _arguments()
    given.dir = os.path.realpath(given.dir)
    given.does(given)


def start(given):
    for need in ("phone/rootfs/system/bin/adbd", "board/root/.done", "tools/qemu-aarch64-static"):
        if not os.path.exists(f"{given.dir}/{need}"):
            die(f"run 'phone make --dir {given.dir}' first")
    keys = [key for path in given.key for key in _keys(path)]
    listening = _listen(given.port)
    port = listening.getsockname()[1]
    run = f"{given.dir}/phones/{port}"
    _folders(run, given.dir, given.wipe)
    state = answers.DEFAULTS | _pairs(given.set)
    answers.put(f"{run}/set.json", json.dumps(dict(state, cpu=given.cpu)))
    answers.render(run, port, state, given.cpu)
    answers.put(f"{run}/cpuinfo", fakecpu.cpuinfo(given.cpu, 8, "standin"))
    answers.put(f"{run}/vendor/adb_keys", "".join(f"{key}\n" for key in keys))
    number = listening.detach()
    os.set_inheritable(number, True)
    _adbd_properties(run, number, given.secure, answers.props(given.cpu, port))
    sys.stdout.flush()
    try:
        pid = world.start(world.World(given.dir, run, number, given.cpu, given.space))
    except OSError as error:
        die(f"{error} (log: {run}/log)")
    if not _answers(port):
        if _started(pid):
            os.kill(pid, signal.SIGKILL)
        die(f"adbd does not answer: {Path(run, 'log').read_text()[-300:]} (log: {run}/log)")
    record = {"pid": pid, "start": _started(pid), "port": port, "cpu": given.cpu}
    answers.put(f"{run}/phone.json", json.dumps(record))
    _say({"serial": f"127.0.0.1:{port}", "pid": pid, "port": port})


def stop(given):
    for run in _runs(given):
        record = _record(run)
        if record:
            _kill(record["pid"])
        elif given.port:
            sys.stderr.write(f"standin: no phone on port {given.port}\n")
        Path(run, "phone.json").unlink(missing_ok=True)
        if given.wipe:
            shutil.rmtree(run, ignore_errors=True)


def change(given):
    new, changed = _pairs(given.set), 0
    for run in _runs(given):
        record = _record(run)
        if not record:
            continue
        state = json.loads(Path(run, "set.json").read_text()) | new
        answers.put(f"{run}/set.json", json.dumps(state))
        cpu = state.pop("cpu")
        answers.render(run, record["port"], state, cpu)
        changed += 1
    if not changed:
        die("no phone is running")


def status(given):
    for run in _runs(given):
        if record := _record(run):
            state = json.loads(Path(run, "set.json").read_text())
            port = record["port"]
            told = {"serial": f"127.0.0.1:{port}", "pid": record["pid"], "port": port, "cpu": record["cpu"]}
            _say({**told, "set": state})


def _keys(path):
    lines = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    for line in lines:
        try:
            whole = len(base64.b64decode(line.split()[0])) == 524
        except ValueError:
            whole = False
        if not whole:
            die(f"{path}: not an adb public key")
    return lines


def _listen(port):
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
    except OSError as error:
        die(f"port {port}: {error.strerror}")
    listening.listen(16)
    return listening


def _folders(run, kit, wipe):
    for name in ("sys", "vendor"):
        shutil.rmtree(f"{run}/{name}", ignore_errors=True)
    if wipe:
        shutil.rmtree(f"{run}/data", ignore_errors=True)
    for name in ("sys", "vendor", "root", "data/local/tmp", "data/misc/adb"):
        os.makedirs(f"{run}/{name}", exist_ok=True)
    os.makedirs(f"{kit}/site", exist_ok=True)


def _adbd_properties(run, number, secure, props):
    own = {"service.adb.listen_addrs": f"acceptfd:{number}", "ro.adb.secure": int(secure)}
    shared = {key: props[key] for key in ("ro.product.name", "ro.product.model", "ro.product.device")}
    lines = (f"{key}={value}\n" for key, value in {**own, **shared}.items())
    answers.put(f"{run}/vendor/adbd.prop", "".join(lines))


def _answers(port):
    """Say whether adbd greets; the listening socket alone proves nothing."""
    data = b"host::\0"
    magic = struct.unpack("<I", b"CNXN")[0] ^ 0xFFFFFFFF
    head = struct.pack("<4sIIIII", b"CNXN", 0x01000000, 4096, len(data), sum(data), magic)
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(head + data)
            return connection.recv(4) in (b"CNXN", b"AUTH")
    except OSError:
        return False


def _started(pid):
    """Return when a process started, in the kernel's words; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _kill(pid):
    # PID 1 of the namespace: SIGTERM would be ignored, and killing adbd alone leaves the rest.
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while _started(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    if _started(pid):
        die(f"pid {pid} did not end")
    deadline = time.monotonic() + 0.2  # dead; give the machine's init a moment to collect it
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.01)


def _record(run):
    try:
        record = json.loads(Path(run, "phone.json").read_text())
    except (OSError, ValueError):
        return None
    return record if _started(record["pid"]) == record["start"] else None


def _runs(given):
    if given.port:
        return [f"{given.dir}/phones/{given.port}"]
    return sorted(map(str, Path(given.dir, "phones").glob("*")))


def _pairs(items):
    pairs = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign:
            die(f"{item}: give KEY=VALUE")
        if not answers.check(key, value):
            known = " ".join(answers.DEFAULTS)
            die(f"{key}={value}: not understood (keys: {known} or a property name with a dot)")
        pairs[key] = value
    return pairs


def _say(document):
    sys.stdout.write(json.dumps(document) + "\n")


def die(message):
    sys.exit(f"standin: error: {message}")


def _arguments():
    parser = argparse.ArgumentParser(prog="phone")
    verbs = parser.add_subparsers(dest="verb", required=True)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for name, does in (("start", start), ("stop", stop), ("set", change), ("status", status)):
        verb = verbs.add_parser(name)
        verb.set_defaults(does=does)
        verb.add_argument("--dir", default=os.path.join(cache, "standin"))
        verb.add_argument("--port", type=int, default=0)
        if name == "start":
            verb.add_argument("--secure", action="store_true", help="ask for a key")
            verb.add_argument("--key", action="append", default=[], metavar="FILE.pub", help="a trusted key")
            verb.add_argument(
                "--space", type=int, default=0, metavar="MIB", help="a small /data, forgotten at stop"
            )
            verb.add_argument("--cpu", default="cortex-a76", choices=sorted(fakecpu.CPUS))
        if name in ("start", "stop"):
            verb.add_argument(
                "--wipe", action="store_true", help="start: empty /data; stop: forget the phone"
            )
        if name in ("start", "set"):
            verb.add_argument("set", nargs="*" if name == "start" else "+", metavar="KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
