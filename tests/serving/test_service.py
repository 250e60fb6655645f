"""What a server keeps when its engine fails and another one takes over, and who reads conversations."""

from __future__ import annotations

import threading

from owl2_jax.inference import device_memory
from owl2_jax.inference.engine import Engine
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.program_sizes import Memory
from owl2_jax.serving import service
from tests.inference.test_engine import compilations
from tests.serving.questions import user
from tests.serving.running import serve

CALL = {"messages": [user("What?")], "max_tokens": 4, "temperature": 0}


def fail(engine: Engine) -> None:
    raise RuntimeError("the device is lost")


def test_the_next_engine_has_the_sizes_of_the_one_that_failed(
    tiny_config, tiny_params, toy_tokenizer, monkeypatch
):
    """However little memory is free by then: the sizes are those of the programs that were compiled."""
    left = iter([Memory(2**30, 1), *[Memory(0, 1)] * 9])
    monkeypatch.setattr(device_memory, "memory_left", lambda config, mesh: next(left))
    with serve(LoadedModel(tiny_config, tiny_params, toy_tokenizer, name="tiny")) as running:
        runner = running.service.runner
        first, before = running.post(CALL).json(), runner._engine
        with compilations() as compiled:
            runner.command(fail)
            running.wait(lambda: runner._engine not in (None, before) or not runner.live)
            assert running.post(CALL).json()["choices"] == first["choices"]
        assert compiled == []
        assert runner._engine.runner.sizes == before.runner.sizes
        assert len(list(left)) == 9  # it was measured once


def test_a_conversation_is_the_same_to_the_thread_that_reads_long_ones(shared, monkeypatch):
    threads, short = [], shared.post(CALL).json()["choices"]
    ids = service.Service.ids
    monkeypatch.setattr(
        service.Service, "ids", lambda *args: threads.append(threading.current_thread().name) or ids(*args)
    )
    assert shared.post(CALL).json()["choices"] == short
    monkeypatch.setattr(service, "SHORT_TEXT", 0)
    assert shared.post(CALL).json()["choices"] == short
    assert threads[0] != threads[1]
