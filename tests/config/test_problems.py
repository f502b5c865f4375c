import logging

import pytest

from relation_heads.config.problems import Problem, did_you_mean, log_and_raise

logger = logging.getLogger("problems")


def test_all_fatal_problems_are_raised_together_and_the_others_logged(caplog):
    found = [Problem("A."), Problem("B.", fatal=False), Problem("C."), Problem("A.")]
    with pytest.raises(ValueError) as error:
        log_and_raise(found, "It cannot work:", logger)
    assert str(error.value).splitlines() == ["It cannot work:", "- A.", "- C."]
    assert caplog.messages == ["B."]


def test_what_is_only_odd_is_no_error(caplog):
    log_and_raise([Problem("B.", fatal=False)], "It cannot work:", logger)
    log_and_raise([], "It cannot work:", logger)
    assert caplog.messages == ["B."]


def test_close_names_are_proposed():
    assert did_you_mean("Relatoin", ["Other", "Relation"]) == "; did you mean Relation?"
    assert did_you_mean("xyz", ["Other", "Relation"]) == "."
