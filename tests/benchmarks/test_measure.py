import time

import torch

from benchmarks.measure import median_seconds, peak_bytes, seconds_in_turns


def test_peak_counts_what_exists_at_once():
    def twice_one_after_the_other():
        for _ in range(2):
            torch.empty(1000, 1000).fill_(1.0)

    def two_at_once():
        return [torch.empty(1000, 1000).fill_(1.0) for _ in range(2)]

    assert peak_bytes(twice_one_after_the_other) == 4_000_000
    assert peak_bytes(two_at_once) == 8_000_000


def test_functions_take_turns_in_both_orders_after_one_warm_up():
    calls = []

    def slow():
        calls.append("slow")
        time.sleep(0.02)

    seconds = median_seconds({"slow": slow, "fast": lambda: calls.append("fast")}, rounds=3)
    assert calls == ["slow", "fast", "fast", "slow"] * 2
    assert 0.02 <= seconds["slow"] < 0.2 and seconds["fast"] < 0.01


def test_a_function_that_takes_too_long_sits_out():
    calls = []

    def slow():
        calls.append("slow")
        time.sleep(0.05)

    functions = {"slow": slow, "fast": lambda: calls.append("fast")}
    seconds = seconds_in_turns(functions, rounds=3, patience=0.04)
    assert calls == ["slow", "fast", "fast", "fast", "fast"]
    assert len(seconds["slow"]) == 1 and seconds["slow"][0] >= 0.05  # the warm-up itself
    assert len(seconds["fast"]) == 3


def test_quick_functions_take_more_rounds():
    seconds = seconds_in_turns({"wait": lambda: time.sleep(0.01)}, rounds=2, least=0.1)
    assert 5 <= len(seconds["wait"]) <= 9  # and the warm-up
    assert len(seconds_in_turns({"wait": lambda: time.sleep(0.01)}, rounds=2)["wait"]) == 2
    assert seconds_in_turns({}, rounds=2, least=0.1) == {}
    two = {"first": lambda: time.sleep(0.02), "other": lambda: time.sleep(0.1)}
    assert 4 <= len(seconds_in_turns(two, rounds=1, least=0.1)["other"]) <= 5


def test_process_time_does_not_count_waiting():
    seconds = seconds_in_turns({"wait": lambda: time.sleep(0.05)}, 1, clock=time.process_time)
    assert seconds["wait"][0] < 0.02
