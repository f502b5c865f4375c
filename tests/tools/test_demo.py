import pytest

pytest.importorskip("detectron2")

import json
import subprocess
import sys

from relation_heads.config import find_config
from tests.tools.test_train_net import load_tool


@pytest.fixture
def demo():
    return load_tool("demo")


def fake_run(demo, name, folder, code):
    folder.mkdir()
    log = (folder / "stdout.txt").open("wb")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log)
    return demo.Run(name, folder, process, log)


def test_configs_exist(demo):
    assert all(find_config(config) for config in demo.RUNS.values())


def test_table_has_a_row_per_group_and_a_column_per_run(demo, tmp_path):
    runs = []
    for k, name in enumerate(("stock", "relation")):
        runs.append(fake_run(demo, name, tmp_path / name, ""))
        lines = [{"iteration": 19}, {"iteration": 39, "bbox/AP50/plain": 90.0 + k}]
        (tmp_path / name / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    rows = demo.table(runs, ["plain", "size"]).splitlines()
    assert rows[0] == "| group | stock | relation |"
    assert rows[2:] == ["| plain | 90.0 | 91.0 |", "| size | nan | nan |"]


def test_a_run_that_starts_from_another_waits_for_it(demo, tmp_path, monkeypatch):
    started = []

    def start(name, output, options):
        ended = [r.name for r in started if r.process.poll() is not None]
        assert demo.STARTS_FROM.get(name, name) in [name, *ended]
        code = "import time; time.sleep(1.5)" if name == "stock" else ""
        started.append(fake_run(demo, name, output / name, code))
        return started[-1]

    monkeypatch.setattr(demo, "start", start)
    monkeypatch.setattr(demo, "POLL_SECONDS", 0.1)
    runs = demo.train_all(tmp_path, [], 10)
    assert {r.name for r in runs} == set(demo.RUNS) and demo.STARTS_FROM


def test_a_training_that_fails_ends_the_demo_with_its_last_words(demo, tmp_path, monkeypatch):
    processes = []

    def start(name, output, options):
        code = (
            "raise SystemExit('no more disk')"
            if name == "relation"
            else "import time; time.sleep(60)"
        )
        run = fake_run(demo, name, output / name, code)
        processes.append(run.process)
        return run

    monkeypatch.setattr(demo, "start", start)
    monkeypatch.setattr(demo, "POLL_SECONDS", 0.2)
    with pytest.raises(SystemExit, match=r"Training of 'relation' failed(.|\n)*no more disk"):
        demo.train_all(tmp_path, [], 10)
    assert processes[0].wait(9) != 0  # the other one was stopped
