"""`rlhf serve`: the command. What it needs is imported inside it, so that `rlhf --help` answers at once."""

from __future__ import annotations

import os
import secrets
from typing import Annotated, Any

import typer

from rlhf_plugins import hookimpl

VARIABLE = "RLHF_SERVE_TOKEN"


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A reward model: RUN[#STAGE], or its folder.")],
    host: Annotated[str, typer.Option(help="The address to listen at; 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8100,
    rows: Annotated[int, typer.Option(min=1, help="Scored together, at most, where no request has more.")] = 64,
) -> None:
    """Serve a reward model over HTTP, for the reward `served` of a recipe on this or another machine.

    Clients need the token in RLHF_SERVE_TOKEN; where it is not set one is made and printed. The connection is not
    encrypted: on another address than 127.0.0.1 put a proxy with TLS before it.
    """
    import uvicorn

    from rlhf_plugins import load_reward_model
    from rlhf_serve.app import app
    from rlhf_serve.batches import Batches
    from rlhf_serve.model import scorer

    batches = Batches(scorer(load_reward_model(model)), rows)
    token = os.environ.get(VARIABLE, "")
    if not token:
        token = secrets.token_urlsafe(24)
        typer.echo(f"export {VARIABLE}={token}")
    config = uvicorn.Config(app(batches, model, token), host, port, log_level="warning", access_log=False)
    listening = config.bind_socket()
    typer.echo(f"{model} is served at http://{host}:{listening.getsockname()[1]}; Ctrl-C ends it")
    uvicorn.Server(config).run([listening])


@hookimpl
def register_commands() -> dict[str, Any]:
    """The command of this file."""
    return {"serve": serve}
