"""One run of `owl2 data prepare`: goes on where it was killed, publishes what is whole."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, TypeOptions

from owl2_jax.core import fields
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_errors import is_no_room
from owl2_jax.core.file_identity import Identity, identities
from owl2_jax.core.paths import in_bucket
from owl2_jax.data.sources import registry
from owl2_jax.data_tools.prepare import beam_pipeline, shards, storage
from owl2_jax.data_tools.prepare.settings import FILTERED, PrepareConfig
from owl2_jax.version import __version__

MANIFEST = "manifest.json"
REJECTED = "rejected.jsonl"

_log = logging.getLogger(__name__)


def is_there(output: str) -> bool:
    """Whether an output exists already."""
    return storage.exists(output.rstrip("/"))


def prepare(config: PrepareConfig, output: str, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Prepares all sets of a config into `output`; returns the manifest.

    An output that is there already, of the same config and sources, is checked
    and left as it is. A run that was killed is gone on with. `output` appears
    when everything is done.

    Args:
      output: a folder, local or of any file system that Beam knows.
      flags: Beam's, as `--runner=DirectRunner`, `--direct_num_workers=4`.

    Raises:
      Owl2Error: a source cannot be opened, `output` is of another config or
        damaged, or too many records have faults.
    """
    output = output.rstrip("/")
    opened = {name: registry.make_source(one.kind, **one.options) for name, one in config.datasets.items()}
    plan = [
        shard
        for name, source in opened.items()
        for shard in shards.plan(name, len(source), config.records_per_shard)
    ]
    descriptions = {name: source.description() for name, source in opened.items()}
    files = {name: identities(source.files) for name, source in opened.items()}
    fingerprint = _fingerprint(config, descriptions, files)
    head, name = storage.split(output)
    work = storage.join(head, f".{name}.partial-{fingerprint[:12]}")
    done = _existing(output, fingerprint, work)
    if done is not None:
        return done
    if storage.exists(work):
        _log.info("going on with %s", work)
    _run(plan, config, work, flags)
    notes = [storage.read_json(shards.note_of(shard.final(work))) for shard in plan]
    return _publish(config, fingerprint, descriptions, notes, work, output)


def _run(plan: Sequence[shards.Shard], config: PrepareConfig, work: str, flags: Sequence[str]) -> None:
    options = PipelineOptions(list(flags))
    # Batches have no triggers. Said here, Beam's DirectRunner stays with its Python
    # engine; otherwise it would try to download another one.
    options.view_as(TypeOptions).allow_unsafe_triggers = True
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # it logs each error that it raises
    try:
        with beam.Pipeline(options=options) as pipeline:
            beam_pipeline.build(pipeline, plan, config, work)
    except Exception as error:
        said = _said(error, work)
        if said is None:
            raise
        raise Owl2Error(said) from error


def _said(error: Exception, work: str) -> str | None:
    """What an `Owl2Error` or a full disk said inside of the pipeline; None for any other error.

    Beam adds the step to a message; from other processes it sends the text of a traceback.
    """
    found = re.findall(r"Owl2Error: ([^\n]*)", str(error))
    if isinstance(error, Owl2Error):
        said = str(error)
    elif found:
        said = found[-1]
    elif is_no_room(error):
        said = f"no space left while writing {work}; make room and run it again"
    else:
        return None
    return said.partition(" [while running ")[0]


def _publish(
    config: PrepareConfig,
    fingerprint: str,
    descriptions: dict[str, str],
    notes: Sequence[dict[str, Any]],
    work: str,
    output: str,
) -> dict[str, Any]:
    """Checks the share of faults, writes the manifest last, and gives the folder its name."""
    with (
        storage.new_file(storage.join(work, REJECTED)) as partial,
        open(partial, "w", encoding="utf-8") as file,
    ):
        for line in shards.rejected_lines(notes):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    manifest = shards.manifest(config, fingerprint, descriptions, notes)
    check_share(manifest, config, storage.join(work, REJECTED))
    for note in notes:
        storage.remove(shards.note_of(storage.join(work, note["file"])))
    storage.remove(storage.join(work, "cleaned"))
    storage.write_json(storage.join(work, MANIFEST), manifest)
    storage.move(work, output, last=MANIFEST)  # in a bucket, what it lists is there before it
    return manifest


def check_share(manifest: dict[str, Any], config: PrepareConfig, where: str) -> None:
    """Raises `Owl2Error` when too many records had faults; filtered and doubled ones have none."""
    read = sum(about["read"] for about in manifest["sets"].values())
    faults: Counter[str] = Counter()
    for name, about in manifest["sets"].items():
        faults.update({f"{name}/{r}": n for r, n in about["rejected"].items() if r not in FILTERED})
    if faults.total() > config.max_rejected_share * read:
        counts = ", ".join(f"{key} {count}" for key, count in faults.most_common(5))
        raise Owl2Error(
            f"{faults.total()} of {read} records have faults, max_rejected_share is "
            f"{config.max_rejected_share:.2%}: {counts}. See {where}; repair the data or raise the limit"
        )


def _existing(output: str, fingerprint: str, work: str) -> dict[str, Any] | None:
    """The manifest of a finished output of the same run; None when there is no whole output yet."""
    if not storage.exists(output):
        return None
    path = storage.join(output, MANIFEST)
    if not storage.exists(path):
        if in_bucket(output) and storage.exists(work):  # killed while its files got their names
            return None
        raise Owl2Error(f"{output} exists and has no {MANIFEST}; choose another output or remove it")
    manifest = storage.read_json(path)
    if manifest.get("fingerprint") != fingerprint:
        raise Owl2Error(
            f"{output} was prepared with another config, other files or contents of the sources, or another "
            "version; choose another output or remove it"
        )
    problems = shards.damage(output, manifest)
    if problems:
        raise Owl2Error(f"{output} is damaged: {'; '.join(problems[:3])}; remove it and prepare it again")
    return manifest


def _fingerprint(
    config: PrepareConfig, descriptions: dict[str, str], files: dict[str, dict[str, Identity]]
) -> str:
    """Differs for another config, other files or contents of them, or another version."""
    contents = {
        name: {path: {"bytes": one["bytes"], "hash": one["hash"]} for path, one in its.items()}
        for name, its in files.items()
    }
    about = {
        "config": fields.to_dict(config),
        "sources": descriptions,
        "files": contents,
        "version": __version__,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
