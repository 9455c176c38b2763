"""What a link does to lines is seen: a session takes no answer that was damaged, lost or repeated."""

import json
import zlib

import pytest

from compiler.errors import DeviceError
from devices.line_check import add_check, take_check
from devices.line_session import start_session

REQUEST, ANSWER = b'{"do": "time", "check": 1}', b'{"wall_ns": [81, 80]}'


def test_a_check_is_taken_off_and_fits_its_request_only():
    line = add_check(REQUEST, ANSWER)
    assert json.loads(line)["crc32"] == f"{zlib.crc32(REQUEST + ANSWER[:-1]):08x}"
    assert take_check(REQUEST, line) == ANSWER
    assert take_check(REQUEST.replace(b"1", b"2"), line) is None and take_check(REQUEST, ANSWER) is None
    assert take_check(b"", add_check(b"", b"{}")) == b"{}"


def test_no_turned_bit_and_no_swapped_bytes_are_taken():
    line = add_check(REQUEST, ANSWER)
    for place in range(len(line)):
        for bit in range(8):
            turned = bytearray(line)
            turned[place] ^= 1 << bit
            assert take_check(REQUEST, bytes(turned)) is None, turned
        for other in range(place):
            swapped = bytearray(line)
            swapped[place], swapped[other] = swapped[other], swapped[place]
            assert bytes(swapped) == line or take_check(REQUEST, bytes(swapped)) is None, swapped


class Echo:
    """A channel to a runner that gives `double` of the request's number, over a link that changes lines."""

    def __init__(self, change=lambda number, line: line, ready=b'{"event": "ready"}'):
        self.change = change
        self.waiting = [add_check(b"", ready)] if ready else []
        self.closed = False

    def send(self, data):
        request = json.loads(data)
        if request["do"] != "exit":
            answer = json.dumps({"double": 2 * request["number"]}).encode()
            self.waiting.append(add_check(data.rstrip(b"\n"), answer))

    def receive(self, timeout_s):
        if not self.waiting:
            raise TimeoutError
        line = self.waiting.pop(0)
        changed = self.change(json.loads(line).get("double"), line)
        return changed + b"\n" if changed else self.receive(timeout_s)

    def end_input(self):
        pass

    def wait(self, timeout_s):
        return 0

    def last_words(self):
        return b""

    def close(self):
        self.closed = True


def ask(channel, *numbers):
    session = start_session(channel, "the runner", checked=True)
    try:
        return [session.request({"do": "double", "number": n}, 0.01)["double"] for n in numbers]
    finally:
        session.close()


def test_a_whole_link_gives_the_answers():
    assert ask(Echo(), 1, 2, 2) == [2, 4, 4]


def damaged(number, line):
    return line.replace(b"4", b"5") if number == 4 else line


def repeated(number, line):
    return line + b"\n" + line if number == 4 else line


def lost(number, line):
    return b"" if number == 4 else line


def bare(number, line):
    return b'{"double": 4}' if number == 4 else line


def refused(number, line):
    return b'{"error": "no JSON"}' if number == 4 else line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damaged, "damaged, lost or repeated"),
        (repeated, "damaged, lost or repeated"),
        (lost, "did not answer"),
        (bare, "without a check"),
        (refused, "reports: no JSON"),
    ],
)
def test_a_broken_link_gives_none_that_is_wrong(change, words):
    channel = Echo(change)
    with pytest.raises(DeviceError, match=words):
        ask(channel, 1, 2, 2)  # the same request twice: only its number tells the answers apart
    assert channel.closed


def test_a_damaged_ready_line_is_no_ready_line():
    with pytest.raises(DeviceError, match="damaged"):
        ask(Echo(lambda number, line: line.replace(b"ready", b"reedy")))
