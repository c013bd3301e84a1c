"""docs/deploy-ec2.md, its walk-through, its troubles, the cloud-init script and the units, as far as no server is needed."""

import configparser
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy import capture, troubles
from deploy.walk_through import Block, Heading, clean, commands, parse, walk

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
GUIDE = (ROOT / "docs" / "deploy-ec2.md").read_text(encoding="utf-8")
TRANSCRIPT = (ROOT / "docs" / "deploy-transcript.txt").read_text(encoding="utf-8")
UNITS = sorted(DEPLOY.glob("*.service"))


def walked(document: str, folder: Path) -> tuple[bool, str]:
    out = io.StringIO()
    ok = walk(document, folder, out)
    return ok, re.sub(r" {4}# \d+ s$", "", out.getvalue(), flags=re.MULTILINE)  # a busy machine is slow


# --- the walk-through ----------------------------------------------------------------------------------------------


def test_only_blocks_marked_to_be_run_are_run() -> None:
    document = "# A\n```sh run\ncd /tmp\n```\ntext\n```sh cloud\nssh there\n```\n```\n# no heading\n```\n```sh run 2\nls\n```\n"
    assert parse(document) == [Heading("# A"), Block(2, 1, ("cd /tmp",)), Block(12, 2, ("ls",))]


def test_commands_are_lines_joined_at_backslashes_without_comments() -> None:
    lines = ["# first", "a \\", "  b", "", "c  # stays", "d \\"]
    assert list(commands(lines)) == ["a \\\n  b", "c  # stays", "d \\\n"]


def test_folder_and_environment_last_from_block_to_block(tmp_path: Path) -> None:
    document = "```sh run\nmkdir deep && cd deep\nexport WORD=kept\n```\n```sh run\necho $WORD $(basename $PWD)\n```\n"
    ok, text = walked(document, tmp_path)
    assert ok
    assert text.endswith("kept deep\n")


def test_the_walk_stops_at_the_first_command_that_fails(tmp_path: Path) -> None:
    ok, text = walked("```sh run\nfalse\ntouch after\n```\n", tmp_path)
    assert (ok, text) == (False, "$ false\nFAILED with exit code 1\n")
    assert not (tmp_path / "after").exists()


def test_a_shell_that_ends_is_a_failure(tmp_path: Path) -> None:
    ok, text = walked("```sh run\nexit 3\n```\n", tmp_path)
    assert not ok
    assert "FAILED with exit code 3" in text


def test_a_second_terminal_works_beside_the_first_and_is_waited_for_at_a_heading(tmp_path: Path) -> None:
    document = (
        "```sh run\nmkfifo pipe\n```\n```sh run 2\ncat pipe\n```\n```sh run\necho through >pipe\n```\n"
        "# Next\n```sh run\necho after\n```\n"
    )
    ok, text = walked(document, tmp_path)
    assert ok
    assert text.index("[terminal 2] $ cat pipe\nthrough") < text.index("# Next") < text.index("\nafter")


def test_a_failure_in_a_second_terminal_ends_the_walk(tmp_path: Path) -> None:
    ok, text = walked("```sh run 2\nfalse\n```\n# Next\n```sh run\ntouch after\n```\n", tmp_path)
    assert not ok
    assert not (tmp_path / "after").exists()
    assert "[terminal 2] FAILED with exit code 1" in text


def test_commands_find_nothing_to_read(tmp_path: Path) -> None:
    assert walked("```sh run\ncat\n```\n", tmp_path) == (True, "$ cat\n")


def test_progress_bars_colours_hosts_and_long_outputs_are_cleaned() -> None:
    assert clean("10 %\r100 %\n\x1b[1mbold\x1b[0m") == "100 %\nbold"
    assert clean("Get http://user@deb.example.org:80/debian x") == "Get http://HOST/debian x"
    assert clean("sending:  13%|#4   | 7.82k/60.1k [00:05<00:33, 1.56krow/s]\nend") == "end"
    assert clean("see http://127.0.0.1:9092/") == "see http://127.0.0.1:9092/"
    assert clean("\n".join(map(str, range(100)))).splitlines()[13:16] == ["13", "[76 lines left out]", "90"]


# --- the guide -----------------------------------------------------------------------------------------------------


def blocks(info: str) -> list[str]:
    return re.findall(rf"^```{info}\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)


def test_every_block_of_the_guide_is_marked() -> None:
    marks = re.findall(r"^```(.+)$", GUIDE, re.MULTILINE)
    assert set(marks) <= {"sh run", "sh run 2", "sh run 3", "sh cloud", "sh amazon"}


@pytest.mark.parametrize("block", blocks("sh [^\n]*"))
def test_every_block_is_bash(block: str) -> None:
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_nobody_is_told_to_install_into_the_systems_python() -> None:
    told = "\n".join(blocks("sh [^\n]*"))
    assert not re.search(r"\bpip3? install|break-system-packages", told)


def test_the_transcript_is_of_this_guide_and_whole() -> None:
    """A command that is changed in the guide must be walked through again."""
    for step in parse(GUIDE):
        for command in step.commands if isinstance(step, Block) else ():
            assert f"$ {command}" in TRANSCRIPT, command
    assert "FAILED" not in TRANSCRIPT
    assert TRANSCRIPT.startswith("# ")


@pytest.mark.parametrize("name", ["system", "processes", "console-consumer", "output-json"])
def test_every_picture_is_there_and_small(name: str) -> None:
    path = ROOT / "docs" / "captures" / f"{name}.png"
    assert f"captures/{name}.png" in GUIDE
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 150_000


# --- the troubles --------------------------------------------------------------------------------------------------


def test_every_row_of_the_table_can_be_made_to_happen() -> None:
    table = GUIDE[GUIDE.index("## Troubleshooting") : GUIDE.index("## Pictures")]
    rows = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert sorted(rows) == sorted(trouble.shows for trouble in troubles.TROUBLES)


ANYWHERE = [trouble for trouble in troubles.TROUBLES if trouble.stage == "anywhere"]


@pytest.mark.parametrize("trouble", ANYWHERE, ids=lambda trouble: trouble.shows)
def test_a_trouble_says_what_the_table_says(trouble: troubles.Trouble, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA_HOME", "JAVA_HOME", "KAFKA_LISTEN", "KAFKA_ADVERTISE"):
        monkeypatch.delenv(name, raising=False)
    as_said, text = troubles.reproduce(trouble, ROOT)
    assert as_said, text


# --- the script and the units --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["user-data.sh", "kafka_lookalike.sh"])
def test_the_scripts_are_plain_sh(name: str) -> None:
    assert subprocess.run(["sh", "-n", DEPLOY / name], check=False).returncode == 0


def test_user_data_fits_into_what_ec2_takes() -> None:
    assert len((DEPLOY / "user-data.sh").read_bytes()) < 16 * 1024


def test_user_data_wants_a_repository_first() -> None:
    text = (DEPLOY / "user-data.sh").read_text(encoding="utf-8")
    as_root = text.replace('[ "$(id -u)" = 0 ]', "true")
    done = subprocess.run(
        ["sh", "-c", as_root], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 1
    assert "it must be the address of your repository" in done.stdout


def unit(path: Path) -> dict[str, dict[str, list[str]]]:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str
    parser.read_string(path.read_text(encoding="utf-8"))
    return {name: dict(parser[name]) for name in parser.sections()}


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_the_units_run_this_project_without_rights(path: Path) -> None:
    service = unit(path)["Service"]
    assert (service["User"], service["NoNewPrivileges"], service["ProtectSystem"]) == ("sor", "yes", "strict")
    program = service["ExecStart"].removeprefix("/opt/sor/.venv/bin/python ").split()
    where = ROOT / program[0] if program[0] != "-m" else (ROOT / program[1].replace(".", "/")).with_suffix(".py")
    assert where.exists()


def test_the_units_of_a_run_need_the_broker_and_start_it() -> None:
    for name in ("sor-producer.service", "sor-backtest.service"):
        needs = unit(DEPLOY / name)["Unit"]
        assert needs["Requires"] == needs["After"] == "sor-kafka.service"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    copies = []
    for path in UNITS:  # the programs of /opt/sor are not here
        text = path.read_text(encoding="utf-8").replace("/opt/sor/.venv/bin/python", "/bin/true")
        copies.append(tmp_path / path.name)
        copies[-1].write_text(text.replace("file:/opt/sor/docs", "https://example.com"), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", *copies], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "sor-" in line] == []


# --- the pictures --------------------------------------------------------------------------------------------------


def test_a_jvms_command_line_is_shortened_to_heap_class_and_settings() -> None:
    line = "  7 9 00:01 /usr/bin/java -Dx=/y -Xmx256M -Xms128M -cp /l/* kafka.Kafka /home/sor/broker/k.properties --override a=b"
    assert capture.short_command(line) == "  7 9 00:01 java -Xmx256M -Xms128M … kafka.Kafka k.properties"
    assert (
        capture.short_command("  7 9 00:01 .venv/bin/python backtest.py") == "  7 9 00:01 .venv/bin/python backtest.py"
    )


def test_long_lines_and_outputs_are_cut_with_a_mark() -> None:
    assert capture.fit("x" * 200, 10) == "xxxxxxxxx…"
    assert capture.middle_out([str(n) for n in range(10)], 2, 1) == ["0", "1", "  … 7 lines …", "9"]
    assert capture.middle_out(["a", "b"], 1, 1) == ["a", "b"]
    assert capture.wrapped("abcdefghijkl", 8) == ["abcdefgh", "    ijkl"]
    json_lines = ['  "by_venue": {', '    "XNAS": {', "    }", "  },", '  "end": 1']
    assert capture.without_venues(json_lines) == ['  "by_venue": { … },', '  "end": 1']


def test_a_picture_shows_every_line_and_says_what_machine_it_was(tmp_path: Path) -> None:
    bare = capture.draw(["$ uname", "Linux"], "The machine", "")
    told = capture.draw(["$ uname", "Linux"], "The machine", "Taken on: a test")
    more = capture.draw(["$ uname", "Linux", ""], "The machine", "")
    assert more.height - bare.height == capture.LINE_PX
    assert bare.tobytes() != told.tobytes()
