"""TOML text from tables: it reads back equal, whatever a text holds."""

from __future__ import annotations

import tomllib

from profiles.writing import write_toml


def test_tables_read_back_equal_and_empty_values_are_left_out() -> None:
    tables = {
        "device": {"name": "a", "soc": "", "isa": ["x", "y"], "cpu": None},
        "cluster": [{"name": "little", "cpus": [0, 1], "max_mhz": 1804.8}, {"name": "big", "cpus": [2]}],
        "memory": {"size_mb": None},
        "expect": {"ro.product.model": "x"},
    }
    text = write_toml(tables, ("a comment",))
    assert text.startswith("# a comment\n\n[device]\n")
    assert tomllib.loads(text) == {
        "device": {"name": "a", "isa": ["x", "y"]},
        "cluster": tables["cluster"],
        "expect": {"ro.product.model": "x"},
    }


def test_any_text_survives() -> None:
    nasty = 'quote " backslash \\ newline \n tab \t del \x7f nul \x00 é 🦉 ]]>'
    assert tomllib.loads(write_toml({"expect": {nasty: nasty}})) == {"expect": {nasty: nasty}}


def test_a_whole_number_of_mhz_is_written_as_one() -> None:
    assert "max_mhz = 2400\n" in write_toml({"cluster": [{"max_mhz": 2400.0}]})
