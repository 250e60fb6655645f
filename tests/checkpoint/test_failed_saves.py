from __future__ import annotations

import logging

import pytest

from owl2_jax.checkpoint import failed_saves
from owl2_jax.checkpoint.failed_saves import FailedSaves, SaveFailure
from owl2_jax.cli.train import set_up_logs
from owl2_jax.core.errors import Owl2Error


def fail():
    raise Owl2Error("no room")


def test_none_may_fail_unless_it_is_said():
    with pytest.raises(Owl2Error, match="no room"):
        FailedSaves(0).tolerated(fail)


def test_so_many_in_a_row_are_told_and_one_more_is_raised(caplog):
    failures = FailedSaves(2)
    with caplog.at_level(logging.WARNING):
        assert not failures.tolerated(fail)
        assert failures.tolerated(lambda: None)
        failures.went_well()
        assert not failures.tolerated(fail)
        assert not failures.tolerated(fail)
    assert caplog.messages == [
        "no room. The run goes on; 1 more in a row may fail",
        "no room. The run goes on; 1 more in a row may fail",
        "no room. The run goes on; no more in a row may fail",
    ]
    with pytest.raises(Owl2Error, match="no room"):
        failures.tolerated(fail)


def test_the_last_one_must_go_well():
    with pytest.raises(Owl2Error, match="no room"):
        FailedSaves(5).tolerated(fail, last=True)


def test_what_fails_on_another_host_alone_has_failed_here_too(monkeypatch, caplog):
    told = []
    monkeypatch.setattr(
        failed_saves, "any_trouble", lambda trouble: told.append(trouble) or "host 1: no room"
    )
    failures = FailedSaves(1)
    assert not failures.tolerated(lambda: None)
    assert failures.any
    assert caplog.messages == ["host 1: no room. The run goes on; no more in a row may fail"]
    with pytest.raises(Owl2Error, match="host 1: no room"):
        failures.tolerated(lambda: None)
    assert told == ["", ""], "every host asks the others, also one that has nothing to tell"


@pytest.mark.parametrize("trains", [False, True])
def test_what_failed_in_a_thread_of_orbax_is_seen_in_its_log_and_not_shown(trains, caplog, monkeypatch):
    failure, logger = SaveFailure(), logging.getLogger("absl")
    caplog.set_level(logging.WARNING, logger="absl")
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "handlers", [])
    if trains:
        set_up_logs()
    logger.addFilter(failure)
    try:
        logger.error("something else")
        assert failure.error is None
        try:
            raise OSError("gone")
        except OSError:
            logger.error("[process=1] Failed to run 5 operations in background save thread", exc_info=True)
    finally:
        logger.removeFilter(failure)
    assert str(failure.error) == "gone"
    assert "background save thread" not in caplog.text
    assert ("something else" in caplog.text) is not trains
