"""Settings: every field says all that is known of it, and a bad value stops the program naming setting, value and remedy."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import config
from config import BOTH, RESULT_SETTINGS, Settings, env_name, flag_name, settings

ROOT = Path(__file__).parent.parent
FIELDS = dataclasses.fields(Settings)
BY_NAME = {field.name: field for field in FIELDS}
BAD = {  # what no setting of that name takes, as the text of a flag or variable
    "kafka_topic": ["", "a b", "..", "x" * 250],
    "kafka_bootstrap_servers": [
        "",
        "localhost",
        "localhost:",
        "localhost:0",
        "h:70000",
        "a:1,",
        "a:1 b:2",
        ":9092",
        "[::1]",
    ],
    "csv_path": ["", " "],
    "speed": ["-1", "nan", "inf", "fast", "1e-9", ""],
    "max_gap_s": ["-0.1", "inf", "86401"],
    "order_size": ["0", "-5", "1.5", "5e3", "2000000001", "many", "nan"],
    "start_time": ["9:30", "24:00", "09:60", "0930", "", "09:30:00.1234567890"],
    "end_time": ["16", "16:00:61"],
    "time_zone": [""],
    "policy": ["", "Router"],
    "lambda_over": ["", "0.1,", "-0.1", "nan", "1001", "a"],
    "lambda_under": ["0.1;0.2"],
    "theta_queue": [",".join(["0.1"] * 101)],
    "slice_s": ["0", "0.9", "-1", "nan"],
    "volume": ["future"],
    "fill_rule": ["Shadow"],
    "deadline_penalty": ["-1", "nan", "inf", "spreads"],
    "latency_ms": ["", "-1", "60000", "1,XNYS", "1,XNYS=", "XNYS=1", "1;2", "nan"],
    "scenarios": ["49", "20001", "1.5"],
    "scenario_step_s": ["0", "3601"],
    "adverse_weight": ["-0.1", "11", "nan"],
    "cancel_on_fill": ["", "1", "yes"],
    "catch_up": ["later"],
    "optimistic_cancels": ["2"],
    "evaluate": ["true"],
    "evaluation_window_s": ["0", "inf"],
    "evaluation_stride_s": ["0"],
    "evaluation_skip_s": ["-1"],
    "resamples": ["99", "100001"],
    "seed": ["-1", "4294967296"],
    "max_quote_age_s": ["-1", "1e30"],
    "max_disorder_s": ["-1", "1e30"],
    "kafka_group": ["", "x" * 201],
    "timeout_s": ["0", "inf"],
    "run_id": ["a b", "x" * 65, "é"],
    "replay": ["2", "maybe"],
    "allow_partial": ["on"],
    "out_path": [""],
    "strict": ["-"],
    "show": ["2"],
    "kafka_security_protocol": ["TLS", "plaintext", "SASL", ""],
    "kafka_sasl_mechanism": ["SCRAM", "GSSAPI", "scram-sha-512"],
    "log_level": ["verbose", "INFO", "10"],
    "log_json": ["maybe", "2"],
    "doctor": ["maybe", "2"],
    "dask": ["yes", "localhost:8786", "http://localhost:8786", "tcp://localhost", "tcp://:8786"],
}


def program_of(field):
    return field.metadata["programs"][0]


def parsed(program, argv=(), environ=None):
    return settings(program, list(argv), "what it does", environ or {})


def stopped(capsys, *given, **environ):
    """The one line that a bad value ends with."""
    with pytest.raises(SystemExit) as stop:
        parsed(*given, environ=environ)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert err.count("\n") == 1
    return err.strip()


def must_be(field):
    return field.metadata["check"][1]


def test_the_names_of_the_trial_are_importable():
    from config import CSV_PATH, END_TIME, KAFKA_BOOTSTRAP_SERVERS, KAFKA_TOPIC, ORDER_SIZE, PARAM_GRID, START_TIME

    assert (KAFKA_TOPIC, ORDER_SIZE, CSV_PATH) == ("mock_l1_stream", 5000, "l1_day.csv")
    assert set(PARAM_GRID) == {"lambda_over", "lambda_under", "theta_queue"}
    assert (START_TIME, END_TIME, KAFKA_BOOTSTRAP_SERVERS) == ("09:30", "16:00", "localhost:9092")


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_says_what_is_known_of_it(field):
    known = field.metadata
    accepts, must_be = known["check"]
    assert known["help"]
    assert must_be
    assert known["programs"] in (BOTH, BOTH[:1], BOTH[1:])
    assert isinstance(known["unit"], str)
    assert accepts(field.default)
    assert known["unit"] or field.type in ("str", "bool"), "a number has a unit"
    assert flag_name(field).startswith("--")
    assert field.type in config._CONVERSIONS


def test_flags_and_variables_are_distinct():
    for program in BOTH:
        fields = [field for field in FIELDS if program in field.metadata["programs"]]
        assert len({flag_name(field) for field in fields}) == len(fields)
    assert len({env_name(field) for field in FIELDS}) == len(FIELDS)
    assert env_name(BY_NAME["kafka_topic"]) == "KAFKA_TOPIC"
    assert env_name(BY_NAME["order_size"]) == "SOR_ORDER_SIZE"


def test_defaults_are_those_of_the_file():
    assert parsed("backtest") == parsed("kafka_producer") == Settings()


def test_flag_over_environment_over_default():
    environ = {"SOR_ORDER_SIZE": "300"}
    assert parsed("backtest", environ=environ).order_size == 300
    assert parsed("backtest", ["--order-size", "700"], environ).order_size == 700
    assert parsed("backtest", ["--csv", "a.csv"]).offline_csv == "a.csv"
    assert parsed("kafka_producer", ["--csv", "a.csv"]).csv_path == "a.csv"


def test_texts_become_values_of_the_field():
    found = parsed(
        "backtest", ["--lambda-over", "0.1, 0.2", "--replay", "--slice-s", "30"], {"SOR_STRICT": "yes", "SOR_SHOW": "0"}
    )
    assert found.lambda_over == (0.1, 0.2)
    assert (found.replay, found.strict, found.show) == (True, True, False)
    assert found.slice_s == 30.0


def test_the_grid_varies_the_last_parameter_fastest():
    found = Settings(lambda_over=(1.0, 2.0), lambda_under=(3.0,), theta_queue=(4.0, 5.0))
    assert found.param_grid == ((1.0, 3.0, 4.0), (1.0, 3.0, 5.0), (2.0, 3.0, 4.0), (2.0, 3.0, 5.0))


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_a_bad_value_names_setting_value_and_what_it_must_be(capsys, name, text):
    field = BY_NAME[name]
    program = program_of(field)
    tail = f"is {text!r}; it must be {must_be(field)} (see --help)"
    if text:  # an empty environment variable is one that is not set
        line = stopped(capsys, program, **{env_name(field): text})
        assert line == f"{program}.py: error: {name} ({env_name(field)}) {tail}"
    if field.type != "bool":
        line = stopped(capsys, program, [f"{flag_name(field)}={text}"])
        assert line == f"{program}.py: error: {name} ({flag_name(field)}) {tail}"


def test_every_setting_that_can_be_wrong_is_tried_above():
    free = {name for name, field in BY_NAME.items() if field.metadata["check"] is config.ANY}
    assert set(BAD) | free == set(BY_NAME)


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        ("ORDER_SIZE = 5000", "ORDER_SIZE = 'many'"),
        ("ORDER_SIZE = 5000", "ORDER_SIZE = 10.5"),
        ("ORDER_SIZE = 5000", "ORDER_SIZE = True"),
        ("ORDER_SIZE = 5000", "ORDER_SIZE = None"),
        ('START_TIME = "09:30"', "START_TIME = 930"),
        ("SPEED = 400.0", "SPEED = -1"),
        ('"lambda_over": (0.01, 0.03, 0.05)', '"lambda_over": 0.05'),
        ('"lambda_over": (0.01, 0.03, 0.05)', '"lambda_over": ["x"]'),
        ('"lambda_over": (0.01, 0.03, 0.05)', '"lambda": (0.05,)'),
        ('KAFKA_TOPIC = "mock_l1_stream"', "KAFKA_TOPIC = ''"),
    ],
)
def test_a_default_edited_badly_is_named_too(tmp_path, edit, line):
    done = edited(tmp_path, edit, line)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "(config.py) is " in done.stderr
    assert "; it must be " in done.stderr


@pytest.mark.parametrize(
    ("edit", "line", "words"),
    [
        ("SPEED = 400.0", "SPEED = 400", ["--speed", "0.5"]),
        ("ORDER_SIZE = 5000", "ORDER_SIZE = 5000.0", ["--order-size", "10"]),
        ("(0.01, 0.03, 0.05)", "[0, 1]", ["--lambda-over", "0.5"]),
    ],
)
def test_a_default_edited_well_does_not_change_what_flags_take(tmp_path, edit, line, words):
    done = edited(tmp_path, edit, line, *words)
    assert done.returncode == 0, done.stderr


def edited(folder, edit, line, *words):
    """Read the settings of a config.py in which `line` stands for `edit`."""
    text = (ROOT / "config.py").read_text(encoding="utf-8")
    assert edit in text
    (folder / "config.py").write_text(text.replace(edit, line, 1), encoding="utf-8")
    program = "kafka_producer" if "SPEED" in edit else "backtest"
    code = f"import sys, config; config.settings({program!r}, sys.argv[1:], '', {{}})"
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("start", "end", "fits"),
    [("09:30", "16:00", True), ("09:30", "09:30", False), ("09:30", "09:30:00", False), ("10:00", "09:59:59.9", False),
     ("09:30", "09:30:00.000000001", True)],
)  # fmt: skip
def test_the_order_must_start_before_it_ends(capsys, start, end, fits):
    words = ["--start-time", start, "--end-time", end]
    if fits:
        assert parsed("backtest", words).end_time == end
    else:
        assert "the start must be before the end" in stopped(capsys, "backtest", words)


def test_flags_that_contradict_each_other(capsys, tmp_path):
    assert "give one of them" in stopped(capsys, "backtest", ["--replay", "--run-id", "a"])
    path = tmp_path / "day.csv"
    line = stopped(capsys, "kafka_producer", ["--csv", str(path), "--rejects", str(tmp_path / "." / "day.csv")])
    assert line.endswith("it must be a file of its own, neither read nor written otherwise (see --help)")


@pytest.mark.parametrize("words", [["--order"], ["--no-such"], ["stray"], ["--order-size"], ["--speed", "1"]])
def test_unknown_flags_are_one_line(capsys, words):
    assert stopped(capsys, "backtest", words).startswith("backtest.py: error: ")


@pytest.mark.parametrize("program", BOTH)
def test_help_names_every_flag_variable_unit_and_default(program):
    done = subprocess.run(
        [sys.executable, str(ROOT / f"{program}.py"), "--help"],
        capture_output=True,
        text=True,
        check=False,
        env={"COLUMNS": "400"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python {program}.py" in done.stdout
    for field in FIELDS:
        if program in field.metadata["programs"]:
            assert (flag_name(field) in done.stdout) is not field.metadata["secret"]
            assert f"env {env_name(field)}\n" in done.stdout
            assert field.metadata["help"] in done.stdout
            assert f"[{field.metadata['unit']}]" in done.stdout or not field.metadata["unit"]


def test_results_depend_on_settings_that_exist_and_on_none_of_transport():
    assert set(RESULT_SETTINGS) <= set(BY_NAME)
    left_out = {name for name, field in BY_NAME.items() if "backtest" in field.metadata["programs"]} - set(
        RESULT_SETTINGS
    )
    assert left_out == {
        "kafka_topic", "kafka_bootstrap_servers", "offline_csv", "venues_path", "kafka_group", "timeout_s", "run_id", "replay",
        "allow_partial", "out_path", "strict", "rejects", "explain", "show", "days", "dask", "verify", "doctor",
        "log_level", "log_json", "kafka_security_protocol", "kafka_sasl_mechanism", "kafka_sasl_username",
        "kafka_sasl_password", "kafka_ssl_cafile",
    }  # fmt: skip


SASL = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_USERNAME": "sor", "KAFKA_SASL_PASSWORD": "hunter2"}


def test_a_password_has_no_flag_and_is_not_shown(capsys):
    found = parsed("backtest", environ=SASL)
    assert found.kafka_sasl_password == "hunter2"
    assert "hunter2" not in repr(found)
    for argv in (["--kafka-sasl-password", "hunter2"], ["--kafka-sasl-password=hunter2"]):
        assert "unrecognized arguments" in stopped(capsys, "backtest", argv)
    line = stopped(capsys, "backtest", KAFKA_SASL_PASSWORD="hunter2\0")
    assert (
        line
        == "backtest.py: error: kafka_sasl_password (KAFKA_SASL_PASSWORD) is not shown here; it must be a text (see --help)"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"KAFKA_SASL_PASSWORD": ""}, "kafka_sasl_password (KAFKA_SASL_PASSWORD) empty; it must be set"),
        ({"KAFKA_SASL_USERNAME": ""}, "kafka_sasl_username (KAFKA_SASL_USERNAME) empty; it must be set"),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL"}, "kafka_sasl_username (KAFKA_SASL_USERNAME) set; it must be empty"),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SSL_CAFILE": "ca.pem"},
            "with kafka_ssl_cafile it must be SSL or SASL_SSL",
        ),
    ],
)
def test_security_settings_must_fit_together(capsys, change, words):
    line = stopped(capsys, "kafka_producer", **{**SASL, **change})
    assert words in line
    assert "hunter2" not in line


def test_an_empty_environment_variable_is_not_set():
    names = {env_name(field): "" for field in BY_NAME.values()}
    assert config.settings("backtest", [], "", names) == config.settings("backtest", [], "", {})


@pytest.mark.parametrize("name", ["rejects", "explain"])
def test_no_file_is_written_over_one_that_is_read_or_written_otherwise(capsys, name):
    others = {"--venues": "v.toml", "--out": "out", "--rejects" if name == "explain" else "--explain": "both"}
    for path in ("v.toml", "out/output.json", "out/../out/results.png", "both", "day.csv"):
        flags = ["--csv=day.csv", f"--{name}={path}", *(f"{flag}={value}" for flag, value in others.items())]
        assert stopped(capsys, "backtest", flags).endswith("neither read nor written otherwise (see --help)")
