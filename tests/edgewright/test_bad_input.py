"""Every bad input ends with its exit code, one paragraph that says what to do, and nothing left behind."""

import pytest

EXAMPLES = {
    "a missing file": ("{dir}/nowhere.py:net", 2, "there is no file"),
    "a missing program": ("{dir}/nowhere.pt2", 2, "there is no file"),
    "a program that is none": ("{dir}/broken.pt2", 2, "is not a torch.export program"),
    "an ONNX file": ("{dir}/model.onnx", 2, "there is no file"),
    "no attribute": ("{file}", 2, "accepted: timm:NAME"),
    "an empty attribute": ("{file}:", 2, "names no attribute"),
    "a misspelt attribute": ("{file}:nett", 2, "did you mean net"),
    "an attribute that is no model": ("{file}:NUMBER", 2, "is no model but a int"),
    "a callable that needs arguments": ("{file}:needs_argument", 2, "depth"),
    "a callable that returns something else": ("{file}:several", 2, "is no model but a tuple"),
    "a callable that fails": ("{file}:fails", 2, "no weights here"),
    "an import that fails": ("{dir}/broken_import.py:net", 2, "broken_import.py:3"),
    "a syntax error": ("{dir}/broken_syntax.py:net", 2, "broken_syntax.py:2"),
    "a file that exits": ("{dir}/exits.py:net", 2, "SystemExit"),
    "a module that is not there": ("no_such_package_of_ours.models:net", 2, "there is no module"),
    "a module without inputs": ("{file}:NET", 2, "--input"),
    "a module in training mode": ("{file}:TRAINING", 3, ".eval()"),
    "a part in training mode": ("{file}:half_training", 3, "'norm'"),
    "data-dependent control flow": ("{file}:branching", 3, "user_models.py"),
}


@pytest.fixture
def files(models, tmp_path):
    (tmp_path / "broken.pt2").write_bytes(b"not a zip")
    (tmp_path / "broken_import.py").write_text("import torch\n\nimport no_such_package_of_ours\n")
    (tmp_path / "broken_syntax.py").write_text("x = 1\ndef (:\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(0)\n")
    return {"file": models, "dir": tmp_path}


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("case", EXAMPLES)
def test_a_bad_model(cli, files, place, case):
    spec, code, words = EXAMPLES[case]
    shape = ["--input", "1x3x8x8"] if "TRAINING" in spec else []
    ended = cli("compile", spec.format(**files), "--out", place / "out", *shape)
    _is_told(ended, code, words, place)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--input", "1x5x8x8"), 2, "1x5x8x8:float32"),
        (("--input", "1x3x8x8:float99"), 2, "unknown dtype"),
        (("--input", "1,3,8,8"), 2, "1x3x224x224"),
        (("--input", "1x3x8x8", "--input", "1x3x8x8"), 2, "does not run on"),
        (("--profile", "no_such_phone"), 2, "no_such_phone"),
        (("--target", "no_such_runtime"), 2, "no_such_runtime"),
        (("--plan", "/no/such/plan.txt"), 2, "/no/such/plan.txt"),
        (("--no-such-option",), 2, "--no-such-option"),
        (("--randomize", "often"), 2, "integer"),
    ],
)
def test_a_bad_option(cli, models, place, options, code, words):
    _is_told(cli("compile", f"{models}:net", "--out", place / "out", *options), code, words, place)


def test_a_wrong_shape_names_what_was_expected(cli, models, place):
    ended = cli("compile", f"{models}:net", "--out", place / "out", "--input", "1x5x8x8")
    assert "its example is 1x3x8x8:float32" in ended.stderr
    assert "to have 3 channels" in ended.stderr


def test_an_unknown_profile_key(cli, models, place, tmp_path):
    profile = tmp_path / "phone.toml"
    text = '[device]\nname = "x"\nlatency = 3\n[reach]\ntransport = "local"\n'
    profile.write_text(text + '[run]\ntargets = ["executorch"]\nthreads = 1\n')
    _is_told(
        cli("compile", f"{models}:net", "--out", place / "out", "--profile", profile), 2, "latency", place
    )


def test_a_plan_that_names_no_site(cli, models, place, tmp_path):
    plan = tmp_path / "plan.txt"
    plan.write_text("# edgewright plan 1\nsegment:nowhere  precision  int8\n")
    ended = cli("compile", f"{models}:net", "--out", place / "out", "--plan", plan)
    _is_told(ended, 2, "segment:nowhere", place)


@pytest.mark.parametrize("command", ["profile", "explain"])
def test_a_folder_that_is_no_artifact(cli, place, command):
    _is_told(cli(command, place), 2, "manifest.json", place)


def test_an_unknown_device(cli):
    ended = cli("devices", "carrier_pigeon:7")
    assert (ended.code, "carrier_pigeon" in ended.stderr) == (5, True)


def test_an_error_is_one_json_document_too(cli, models, place):
    ended = cli("compile", f"{models}:nett", "--out", place / "out", "--json")
    assert ended.document == {
        "schema": "edgewright.error/1",
        "exit_code": 2,
        "error": "UsageError",
        "message": ended.stderr.splitlines()[-1].removeprefix("edgewright: "),
    }


def test_a_fault_of_ours_is_told_in_a_line(cli, models, place, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("the loader broke")

    monkeypatch.setattr("edgewright.compilation.load_methods", broken)
    ended = cli("compile", f"{models}:net", "--out", place / "out")
    _is_told(ended, 1, "--debug", place)


@pytest.mark.parametrize("command", ["search", "calibrate"])
def test_another_device_than_the_profile_s_is_told_before_the_model_is_read(cli, place, command):
    (place.parent / "data.py").write_text(
        "import torch\ndef batches():\n    return [(torch.randn(1, 3),)] * 4\n"
    )
    data = (
        "--latency-budget",
        "0.8x",
        "--calibration",
        f"{place.parent / 'data.py'}:batches",
        "-o",
        place / "o",
    )
    options = ("--database", place / "m.db", *(data if command == "search" else ()))
    profile = ("--profile", "emulated-cortex-a76", "--device", "local")
    ended = cli(command, "no_such_package_of_ours.models:net", *profile, *options)
    _is_told(ended, 5, "expects processor = 'cortex-a76 (emulated)'", place)


def _is_told(ended, code, words, place):
    message = [line for line in ended.stderr.splitlines() if line.startswith("edgewright: ")]
    assert ended.code == code, ended.stderr
    assert len(message) == 1
    assert words in ended.stderr.split("edgewright: ", 1)[1]
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert list(place.iterdir()) == []
