"""The type of the option `carry` of stages that run several trainings, such as a plugin's loop."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rlhf_plugins.contract.component import Carried

Carry = Annotated[
    list[Carried], Field(description="state that each training takes over from the training of its start policy")
]
