"""`rlhf serve`: the command. What it needs is imported inside it, so that `rlhf --help` answers at once."""

from __future__ import annotations

import os
import secrets
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_plugins import hookimpl

if TYPE_CHECKING:
    from rlhf_plugins import RewardModel

VARIABLE = "RLHF_SERVE_TOKEN"


class Quantization(StrEnum):
    """How the linear layers below pooling and head are quantized."""

    INT8 = "int8"
    NF4 = "nf4"


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A reward model: RUN[#STAGE], or its folder.")],
    host: Annotated[str, typer.Option(help="The address to listen at; 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8100,
    rows: Annotated[int, typer.Option(min=1, help="Scored together, at most, where no request has more.")] = 64,
    quantization: Annotated[
        Quantization | None, typer.Option(help="Hold a model that was trained without it in 8 or 4 bits.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="FILE", help="Pairs on which to print what the quantization costs and saves.")
    ] = None,
) -> None:
    """Serve a reward model over HTTP, for the reward `served` of a recipe on this or another machine.

    Clients need the token in RLHF_SERVE_TOKEN; where it is not set one is made and printed. The connection is not
    encrypted: on another address than 127.0.0.1 put a proxy with TLS before it.
    """
    import uvicorn

    from rlhf_serve.app import app
    from rlhf_serve.batches import Batches
    from rlhf_serve.model import scorer

    batches = Batches(scorer(_opened(model, quantization, compare)), rows)
    token = os.environ.get(VARIABLE, "")
    if not token:
        token = secrets.token_urlsafe(24)
        typer.echo(f"export {VARIABLE}={token}")
    name = f"{model} in {quantization}" if quantization else model
    config = uvicorn.Config(app(batches, name, token), host, port, log_level="warning", access_log=False)
    listening = config.bind_socket()
    typer.echo(f"{name} is served at http://{host}:{listening.getsockname()[1]}; Ctrl-C ends it")
    uvicorn.Server(config).run([listening])


def _opened(model: str, quantization: Quantization | None, compare: str | None) -> RewardModel:
    """The model, once it was compared. Raises RunError where it cannot be, and as loading does."""
    from rlhf_plugins import RunError, load_reward_model
    from rlhf_serve.compared import compared, measured, pairs_of

    if compare is None:
        return load_reward_model(model, quantization=quantization and quantization.value)
    if quantization is None:
        raise RunError("--compare prints what --quantization costs: give one, int8 or nf4")
    pairs, left_out = pairs_of(compare)
    plain = measured(load_reward_model(model), pairs)  # which is freed before the other is loaded
    opened = load_reward_model(model, quantization=quantization.value)
    for line in compared(plain, measured(opened, pairs), quantization.value):
        typer.echo(line)
    if left_out:
        typer.echo(f"{compare}: {left_out} rows were left out, which are no pairs of a better and a worse response")
    return opened


@hookimpl
def register_commands() -> dict[str, Any]:
    """The command of this file."""
    return {"serve": serve}
