"""Prints what `owl2 fit` found."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from owl2_jax.model import flops
from owl2_jax.parallel.chips import GIB
from owl2_jax.perf import op_page, op_report
from owl2_jax.perf.fitting import Result, describe
from owl2_jax.perf.published import Published
from owl2_jax.perf.searching import Attempt
from owl2_jax.perf.versions import Versions


def as_dict(result: Result, versions: Versions | None = None, ops: bool = False) -> dict[str, Any]:
    """JSON types: bytes, seconds and FLOPs per chip unless the name says otherwise."""
    plan, fit = result.plan, result.fit
    values: dict[str, Any] = {
        "what": plan.what,
        "topology": plan.topology.name,
        "chips": plan.topology.count,
        "mesh": dict(plan.mesh.shape),
        "rows": plan.shape.rows,
        "length": plan.shape.length,
        "images": plan.shape.images,
        "accumulation": plan.accumulation,
        "rows_per_piece": plan.rows_per_piece,
        "remat": plan.model.remat,
        "attention": plan.attention,
        "options": dict(plan.train.compiler_options),
        "compile_seconds": round(fit.compile_s, 1),
        "versions": dataclasses.asdict(versions) if versions else None,
        "unread": fit.unread or None,
        "fits": fit.memory.fits,
        "memory": {
            "capacity": fit.memory.capacity,
            "needed": fit.memory.needed,
            **fit.memory.parts,
            "outputs": fit.memory.outputs,
            "temporary": fit.memory.temporary,
        },
        "flops_all_chips": {
            part: {"forward": f.forward, "backward": f.backward, "executed": f.executed}
            for part, f in result.workload.flops.items()
        },
    }
    if fit.roofline is not None and fit.traffic is not None:
        line = fit.roofline
        values["roofline"] = {
            "products_seconds": line.products,
            "memory_seconds": line.memory,
            "network_seconds": line.network,
            "waiting_seconds": line.waiting,
            "step_seconds": line.step,
            "limit": line.limit,
            "mfu_bound": line.mfu,
            "tokens_per_second_all_chips": result.workload.tokens / line.step,
        }
        values["traffic"] = {
            "memory_bytes": fit.traffic.memory_bytes,
            "collectives": _by_kind(result),
            "unknown_loops": fit.traffic.unknown_loops,
        }
    if fit.forecast is not None and fit.roofline is not None:
        line, ahead = fit.roofline, fit.forecast
        values["forecast"] = {
            "step_seconds": ahead.seconds,
            "mfu": line.model_flops / line.peak / ahead.seconds,
            "tokens_per_second_all_chips": result.workload.tokens / ahead.seconds,
            "unread_kernels": list(ahead.unread),
            "unknown_loops": ahead.unknown_loops,
            "left_out": op_report.LEFT_OUT,
        }
        if ops:
            values["ops"] = op_report.as_dict(ahead, line.peak)
    return values


def _by_kind(result: Result) -> list[dict[str, Any]]:
    """Collectives added up by kind and group size, the largest first."""
    kinds: dict[tuple[str, int], dict[str, Any]] = {}
    assert result.fit.traffic is not None
    for collective in result.fit.traffic.collectives:
        key = (collective.op, collective.group)
        row = kinds.setdefault(key, {"op": key[0], "group": key[1], "runs": 0, "received_bytes": 0.0})
        row["runs"] += collective.times
        row["received_bytes"] += collective.total
    return sorted(kinds.values(), key=lambda row: -row["received_bytes"])


def print_result(
    result: Result, versions: Versions, as_json: bool, ops: bool, published: Published | None = None
) -> None:
    """One JSON object, or tables."""
    if as_json:
        values = as_dict(result, versions, ops)
        if published is not None:
            values["published"] = _against(result, published)
        print(json.dumps(values, indent=2))
        return
    print_tables(result, versions, ops)
    if published is not None:
        _print_published(result, published)


def print_search(
    best: Attempt, attempts: Sequence[Attempt], versions: Versions, as_json: bool, ops: bool
) -> None:
    """All attempts, the tables of the best where it was compiled now, and the config lines that make it."""
    if as_json:
        values = as_dict(best.result, versions, ops) if best.result is not None else {}
        values["attempts"] = [_attempt(attempt) for attempt in attempts]
        values["best"] = _attempt(best)
        print(json.dumps(values, indent=2))
        return
    print("attempts")
    for attempt in attempts:
        speed = f"step {attempt.seconds:.3f} s, MFU {attempt.mfu:.1%}" if attempt.seconds else "does not fit"
        mark = "*" if attempt is best else " "
        print(f" {mark} {attempt.words:70} {attempt.needed / GIB:7.2f} GiB  {speed}")
    print()
    if best.result is not None:
        print_tables(best.result, versions, ops)
    print("\nconfig lines of the best")
    for line in best.lines:
        print(f"  {line}")


def _attempt(attempt: Attempt) -> dict[str, Any]:
    names = ("words", "lines", "seconds", "needed", "mfu")
    return {name: getattr(attempt, name) for name in names} | {"remembered": attempt.result is None}


def _against(result: Result, published: Published) -> dict[str, Any]:
    """What was measured, and the ratio of the forecast to it."""
    seconds = result.fit.seconds
    return {
        "source": published.source,
        "deviation": published.deviation or None,
        "mfu": published.mfu,
        "step_seconds": published.seconds,
        "forecast_over_published": None if seconds is None else seconds / published.seconds,
    }


def _print_published(result: Result, published: Published) -> None:
    values = _against(result, published)
    print(
        f"published   {values['step_seconds']:10.4f} s  MFU {values['mfu']:6.1%} by its own count of "
        f"operations; {published.source}"
    )
    if published.deviation:
        print(f"  differs from it: {published.deviation}")
    if values["forecast_over_published"]:
        print(f"forecast over published: {values['forecast_over_published']:.2f}")


def title(result: Result) -> str:
    """What was compiled, for which slice and over which axes."""
    plan = result.plan
    mesh = ", ".join(f"{name} {size}" for name, size in plan.mesh.shape.items() if size > 1) or "one chip"
    return f"{plan.what} on {plan.topology.name} ({plan.topology.count} chips; {mesh})"


def page(result: Result, versions: Versions | None) -> str | None:
    """The HTML page of a result, or None where there is no forecast to show."""
    fit = result.fit
    if fit.forecast is None or fit.roofline is None:
        return None
    return op_page.render(title(result), as_dict(result, versions), fit.forecast, fit.roofline.peak)


def print_tables(result: Result, versions: Versions | None = None, ops: bool = False) -> None:
    """Prints what was found, with the twenty dearest operations where `ops` asks for them."""
    values = as_dict(result, versions)
    print(title(result))
    print(
        f"  {values['rows']} rows of {values['length']} tokens, {values['images']} images; "
        f"{describe(result.plan)}; {values['attention']} attention"
    )
    print(f"  compiled in {values['compile_seconds']} s" + (f" by {versions}" if versions else ""))
    _print_memory(values)
    _print_flops(result)
    if result.fit.unread:
        print(
            f"\nthe text of the compiled program cannot be read, so that there is no table of its time: "
            f"{result.fit.unread}"
        )
    if "roofline" in values:
        _print_roofline(values)
    if result.fit.forecast is not None and result.fit.roofline is not None and ops:
        op_report.print_ops(result.fit.forecast, result.fit.roofline.peak)


def _print_memory(values: dict[str, Any]) -> None:
    memory = dict(values["memory"])
    capacity, needed = memory.pop("capacity"), memory.pop("needed")
    verdict = "fits" if values["fits"] else "DOES NOT FIT"
    print(f"\nmemory per chip: {needed / GIB:.2f} of {capacity / GIB:.2f} GiB, {verdict}")
    for name, size in memory.items():
        print(f"  {name:14}{size / GIB:10.3f} GiB")


def _print_flops(result: Result) -> None:
    rows = {**result.workload.flops, "total": flops.total(result.workload.flops)}
    name, size = flops.unit(rows["total"].executed)
    print(f"\n{name} of all chips  {'forward':>12}{'backward':>12}{'executed':>12}")
    for part, f in rows.items():
        print(f"  {part:16}{f.forward / size:14.2f}{f.backward / size:12.2f}{f.executed / size:12.2f}")


def _print_roofline(values: dict[str, Any]) -> None:
    line = values["roofline"]
    print("\ncollectives per chip")
    for row in values["traffic"]["collectives"][:8]:
        size = row["received_bytes"] / 1e9
        print(f"  {row['op']:20} over {row['group']:<5} {row['runs']:6} times {size:12.3f} GB received")
    print("\nstep time in seconds")
    for name in ("products", "memory", "network"):
        mark = "  <- limit" if line["limit"] == name else ""
        waits = name == "products"
        more = f" + {line['waiting_seconds']:.4f} of network that nothing overlaps" if waits else ""
        print(f"  {name:10}{line[f'{name}_seconds']:10.4f}{more}{mark}")
    rows = [("bound", line["step_seconds"], line["mfu_bound"], line["tokens_per_second_all_chips"])]
    if "forecast" in values:
        ahead = values["forecast"]
        rows.append(("forecast", ahead["step_seconds"], ahead["mfu"], ahead["tokens_per_second_all_chips"]))
    for name, seconds, mfu, tokens in rows:
        print(
            f"{name:12}{seconds:10.4f} s  MFU {mfu:6.1%}  {tokens:,.0f} tokens/s on all chips; "
            f"leaves out {op_report.LEFT_OUT[name]}"
        )
    for kernel in values.get("forecast", {}).get("unread_kernels", ()):
        print(f"  kernel {kernel} could not be read and counts by its bytes alone")
