"""The keys of a profile that say when a device is fit, and how long a round waits for it to cool."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from compiler.errors import UsageError
from compiler.preflight import Level, Preflight
from profiles.loader import parse_profile
from profiles.tables import PREFLIGHT

MINIMAL = '[device]\nname = "p"\n[reach]\ntransport = "local"\n[run]\ntargets = ["t"]\nthreads = 1\n'
PATH = Path("p.toml")


def test_the_loader_knows_every_field_of_the_preflight() -> None:
    assert set(PREFLIGHT) == {f.name for f in fields(Preflight)}


def test_levels_and_bounds_are_read() -> None:
    text = '[preflight]\ncharging = "refuse"\nbattery_min_percent = 50\ngovernors = ["performance"]\n'
    found = parse_profile(MINIMAL + text, PATH).preflight
    assert found == Preflight(charging=Level.REFUSE, battery_min_percent=50.0, governors=("performance",))
    assert type(found.battery_min_percent) is float


def test_a_cool_down_is_another_population_and_a_preflight_is_not() -> None:
    plain = parse_profile(MINIMAL, PATH)
    strict = parse_profile(MINIMAL + '[preflight]\nscreen = "ignore"\n', PATH)
    cool = parse_profile(MINIMAL + "[protocol]\ncool_below_c = 38\ncooldown_max_s = 300\n", PATH)
    assert (cool.protocol.cool_below_c, cool.protocol.cooldown_max_s) == (38.0, 300.0)
    assert plain.protocol_digest() == strict.protocol_digest() != cool.protocol_digest()
    assert len({plain.digest(), strict.digest(), cool.digest()}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[preflight]\nscreen = "off"\n', r"\[preflight\] screen must be one of ignore, warn, refuse"),
        ("[preflight]\nthermal_max_status = 7\n", "thermal status, 0 to 6"),
        ('[preflight]\ncharger = "warn"\n', "did you mean 'charging'"),
        ("[protocol]\ncool_below_c = 38\n", "cool_below_c waits for nothing without cooldown_max_s"),
    ],
)
def test_refusals_name_the_key_and_what_is_accepted(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_profile(MINIMAL + text, PATH)
