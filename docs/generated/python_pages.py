"""The Python API: what a program imports, made of signatures and docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re

from tables import code, meanings, prose, table

import owl2_jax
from owl2_jax.config import RunConfig, load_config
from owl2_jax.inference.chat import Chat
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.request import Request, Result
from owl2_jax.loading import load_model
from owl2_jax.sampling.params import Sampling
from owl2_jax.training.logging.metrics import read_metrics

# What the page shows, in this order, with the public methods of classes that have any to call.
SHOWN = (
    (owl2_jax.load, ()),
    (load_model, ()),
    (LoadedModel, ()),
    (Chat, ("ask", "reset")),
    (Engine, ("generate", "answers", "submit", "step", "cancel")),
    (EngineConfig, ()),
    (Request, ("choices",)),
    (Sampling, ()),
    (Result, ()),
    (load_config, ()),
    (RunConfig, ("from_dict", "to_dict")),
    (read_metrics, ()),
)  # fmt: skip

EXAMPLE = """\
```python
import owl2_jax
from owl2_jax.inference.chat import Chat
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.request import Request

model = owl2_jax.load("runs/quickstart/stage2")
chat = Chat(Engine(model, EngineConfig(sequences=1)), max_new_tokens=20)
print("".join(chat.ask("What is this?", images=["image.png"])))

engine = Engine(model, EngineConfig(sequences=2))
questions = ["What is this?", "Which colour is it?"]
messages = [[{"role": "user", "content": f"<|image|>{text}"}] for text in questions]
requests = [Request(one, ["image.png"], max_new_tokens=20) for one in messages]
for result in engine.generate(requests):
    print(result.text, result.finish_reason)
```"""


def python_page() -> str:
    """An example, and every shown function and class with what its docstring says."""
    words = (
        "What a program may import. Everything else is inside, and changes without notice. Whatever a caller "
        "can do wrong is an `owl2_jax.core.errors.Owl2Error`, whose message says what to change."
    )
    parts = ["# The Python API", prose(words), "## An example", EXAMPLE]
    for thing, methods in SHOWN:
        parts += _section(thing, _path(thing), 2)
        for name in methods:
            parts += _section(getattr(thing, name), f"{thing.__name__}.{name}", 3)
    return "\n\n".join(parts)


def _path(thing: object) -> str:
    return "owl2_jax.load" if thing is owl2_jax.load else f"{thing.__module__}.{thing.__name__}"


def _section(thing: object, name: str, level: int) -> list[str]:
    """Heading, signature, words and tables of one function or class."""
    about = inspect.getdoc(thing) or ""
    opening = re.split(r"\n\n?(?:Args|Attributes|Returns|Raises|Yields):", about)[0]
    title = code(name).replace(".", ".<wbr>")  # a phone breaks the line there
    parts = [f'{"#" * level} {title} {{: id="{name}" }}', f"```text\n{_signature(thing)}\n```"]
    parts += [prose(" ".join(part.split())) for part in opening.split("\n\n")]
    for title, head in (("Attributes", "field"), ("Args", "argument"), ("Raises", "raises")):
        rows = [(code(key), prose(text)) for key, text in meanings(thing, title).items()]
        parts += [table((head, "meaning"), rows)] if rows else []
    return parts


def _signature(thing: object) -> str:
    """`name(argument: type = default)`; of a dataclass, its fields."""
    name = thing.__name__
    if dataclasses.is_dataclass(thing):
        lines = [_field(field) for field in dataclasses.fields(thing)]
        return f"{name}(\n" + "".join(f"    {line},\n" for line in lines) + ")"
    signature = re.sub(r"\bself, ?|\bself\b|\bcls, ?", "", str(inspect.signature(thing)))
    return name + re.sub(r"(: |-> )'([^']+)'", r"\1\2", signature)  # annotations are read as text


def _field(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return f"{field.name}: {field.type} = {field.default!r}"
    made = "" if field.default_factory is dataclasses.MISSING else " = ..."
    return f"{field.name}: {field.type}{made}"
