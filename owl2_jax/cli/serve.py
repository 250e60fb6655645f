"""`owl2 serve`: a model behind an OpenAI-style HTTP API, with a chat page."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from owl2_jax.checkpoint.param_files import check_checkpoint
from owl2_jax.cli.common import (
    add_checkpoint_arguments,
    add_engine_arguments,
    add_int8_argument,
    add_mesh_argument,
    engine_config,
    load_model,
)
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.ranges import NotNegative, Port, Whole, between
from owl2_jax.core.text_files import read_text
from owl2_jax.core.texts import BucketPath
from owl2_jax.serving.listening import listen, url_of

if TYPE_CHECKING:
    from owl2_jax.serving.settings import ServeConfig

_MIB = Annotated[int, between(1, 2**16)]  # 16 requests of them are held
_MPIXELS = Annotated[int, between(1, 2000)]

KEY_VARIABLE = "OWL2_API_KEY"
ENGINE_DIED = 1
_LAST_STEP_SECONDS = 2.0  # for what the engine is doing when everything else has ended


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `owl2 serve`."""
    add_checkpoint_arguments(parser)
    add_int8_argument(parser)
    add_mesh_argument(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: this machine only)"
    )
    parser.add_argument("--port", type=Port, default=8000, help="0 takes a free one (default: 8000)")
    parser.add_argument(
        "--model-name", metavar="NAME", help="what clients call it (default: the directory's name)"
    )
    parser.add_argument(
        "--api-key-file", type=BucketPath, metavar="FILE",
        help=f"clients must show the key in this file (or in the variable {KEY_VARIABLE})",
    )  # fmt: skip
    add_engine_arguments(parser, "answers")
    parser.add_argument("--queue", type=Whole, metavar="N", help="requests that may wait (default: 64)")
    parser.add_argument("--max-images", type=Whole, metavar="N", help="in one conversation (default: 16)")
    parser.add_argument("--max-pictures", type=Whole, dest="max_images", help=argparse.SUPPRESS)  # older name
    parser.add_argument("--max-body-mib", type=_MIB, metavar="N", help="of one request (default: 32)")
    parser.add_argument("--max-megapixels", type=_MPIXELS, metavar="N", help="of one image (default: 50)")
    parser.add_argument(
        "--remote-images", action="store_true",
        help="fetch images from public web addresses (default: data: URLs only)",
    )  # fmt: skip
    parser.add_argument(  # older name
        "--remote-pictures", action="store_true", dest="remote_images", help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--grace-seconds", type=NotNegative, default=60.0, metavar="S",
        help="how long running answers may take after a signal to stop (default: 60)",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Runs `owl2 serve`; returns the exit code."""
    config = config_of(args)
    check_checkpoint(args.checkpoint)
    sock = listen(args.host, args.port)
    require_extra()

    from owl2_jax.serving.server import Server
    from owl2_jax.serving.service import Service

    warn_if_open(args.host, config)
    model = load_model(args, args.int8)
    engine = dataclasses.replace(engine_config(model, args), decode_steps=4)
    service = Service(model, config, engine)
    where = f"chat page at {url_of(sock)}, API at {url_of(sock)}/v1"
    print(f"{service.name}: {where}; {service.about_cache()}; compiling", flush=True)
    server = Server(service, on_ready=lambda: print("ready", flush=True))
    server.run(sockets=[sock])
    code = ENGINE_DIED if server.failed else 0
    if not service.runner.wait_ended(_LAST_STEP_SECONDS):
        # The interpreter would end the thread inside of the compiler, which aborts the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def config_of(args: argparse.Namespace) -> ServeConfig:
    """The settings in `args` and the environment. Raises `Owl2Error` for values out of range."""
    from owl2_jax.serving.settings import MIB, Limits, ServeConfig

    given = {
        "queue": args.queue,
        "images": args.max_images,
        "body_bytes": args.max_body_mib and args.max_body_mib * MIB,
        "pixels": args.max_megapixels and args.max_megapixels * 1_000_000,
    }
    limits = {name: value for name, value in given.items() if value is not None}
    if "body_bytes" in limits:
        limits["held_bytes"] = max(Limits.held_bytes, 16 * limits["body_bytes"])
    return ServeConfig(
        model_name=args.model_name,
        api_key=read_key(args.api_key_file),
        remote_images=args.remote_images,
        grace_seconds=args.grace_seconds,
        limits=Limits(**limits),
    )


def read_key(path: Path | None) -> str | None:
    """The API key of a file, else of the environment; not an argument, which others could see.

    Raises:
      Owl2Error: the file cannot be read, or is no text.
    """
    if path is None:
        return os.environ.get(KEY_VARIABLE)
    try:
        return read_text(path).strip()
    except Owl2Error as error:
        raise Owl2Error(f"--api-key-file: {error}") from error


def require_extra() -> None:
    """Raises `Owl2Error` where the extra `serve` is not installed."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise Owl2Error(
            f"owl2 serve needs {error.name}, which is not installed; run pip install 'owl2_jax[serve]'"
        ) from error


def warn_if_open(host: str, config: ServeConfig) -> None:
    """Tells when others than this machine's users may ask without a key."""
    try:
        local = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local and config.api_key is None:
        print(
            f"warning: whoever reaches {host} may ask; set {KEY_VARIABLE} or --api-key-file to demand a key",
            file=sys.stderr,
        )
