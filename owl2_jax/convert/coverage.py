"""Whether the tensors of a source are exactly those that a model needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from owl2_jax.convert.finite import is_float
from owl2_jax.convert.safetensors_file import TensorSpec
from owl2_jax.convert.weight_names import Pair
from owl2_jax.core.errors import Owl2Error, nearest

Shape = tuple[int, ...]
_SHOWN = 6


def check_coverage(
    specs: Mapping[str, TensorSpec],
    pairs: Sequence[Pair],
    optional: Mapping[str, Shape],
    where: str,
    ignored: Callable[[str], bool] = lambda name: False,
) -> None:
    """Checks names, shapes and dtypes of a source against what the rules read.

    Args:
      specs: what the source has.
      pairs: what is needed.
      optional: name to shape of tensors that may or may not be there.
      where: the source, for the message.
      ignored: says of a name that it may be there and is not read.

    Raises:
      Owl2Error: with every kind of disagreement in one line.
    """
    needed = {pair.theirs: pair.their_shape for pair in pairs}
    known = {**optional, **needed}
    extra = [name for name in specs if name not in known and not ignored(name)]
    missing = [name for name in needed if name not in specs]
    shaped = [
        f"{name} is {list(spec.shape)}, expected {list(known[name])}"
        for name, spec in specs.items()
        if name in known and spec.shape != known[name]
    ]
    typed = [f"{n} ({specs[n].dtype})" for n in needed if n in specs and not is_float(specs[n].dtype)]
    problems = [
        _listing("missing", _with_nearest(missing, extra)),
        _listing("not known", extra),
        _listing("of another shape than config.json says", shaped),
        _listing("no float", typed),
    ]
    found = "; ".join(filter(None, problems))
    if found:
        raise Owl2Error(f"{where} does not fit its config.json: {found}")


def _with_nearest(names: Sequence[str], options: Sequence[str]) -> list[str]:
    """`names`, of which those that will be shown get the most similar of `options`."""
    close = [nearest(name, options, 1) for name in names[:_SHOWN]]
    shown = [
        f"{name} (nearest: {near[0]})" if near else name for name, near in zip(names, close, strict=False)
    ]
    return shown + list(names[_SHOWN:])


def _listing(kind: str, entries: Sequence[str]) -> str:
    if not entries:
        return ""
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return f"{len(entries)} {kind}: {', '.join(entries[:_SHOWN])}{more}"
