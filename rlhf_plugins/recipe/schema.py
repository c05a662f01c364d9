"""The top-level options of a recipe, and the JSON schema of a whole recipe for editors; it makes no component."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from rlhf_plugins.contract.checkpoint import Checkpoint
from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.on_disk import OnDisk
from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.contract.run_kinds import DataFormat, Monitor, Stage
from rlhf_plugins.errors import PluginError
from rlhf_plugins.recipe.members import SCHEMA
from rlhf_plugins.recipe.options import NONE, Option, adapter, options, plain
from rlhf_plugins.recipe.trainer import SECRETS, config_options
from rlhf_plugins.sandbox import POLICIES

if TYPE_CHECKING:
    from rlhf_plugins.registry.registry import Registry

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The top of a recipe."""

    base: Annotated[
        str,
        OnDisk("#", tuple(POLICIES)),
        Field(
            min_length=1,
            description="a folder, a hub name, `sandbox`, `sandbox_arithmetic`, or another run's policy: `runs/a#dpo`",
        ),
    ]
    quantization: Annotated[Literal["none", "nf4", "int8"], Field(description="of the base; needs an adapter")] = "none"
    adapter: Annotated[Adapter | None, Field(description="LoRA options; `none` fine-tunes all weights")] = Adapter()
    trust_remote_code: Annotated[bool, Field(description="whether the base may run code of its own")] = False
    chat_template: Annotated[
        str | None,
        Field(min_length=1, description="a file with a Jinja template for conversations, or the template itself"),
    ] = None
    system: Annotated[
        str | None, Field(min_length=1, description="the system turn of conversations that have none")
    ] = None
    chat_template_kwargs: Annotated[
        dict[str, Any], Field(description="variables of the chat template, such as {enable_thinking: false}")
    ] = field(default_factory=dict)
    max_length: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Field(description="tokens of a prompt with a response, in all stages; null leaves each stage its own"),
    ] = None
    max_prompt_length: Annotated[
        Annotated[int, Field(ge=1)] | None, Field(description="tokens of a prompt, in all stages")
    ] = None
    truncation: Annotated[
        Literal["drop", "cut"],
        Field(description="longer rows are left out, or lose a prompt's first tokens and a response's last"),
    ] = "drop"
    engine: Annotated[
        Literal["auto", "plain", "compiled"],
        Field(
            description="`plain` switches every fast path off: transformers, PEFT and torch alone compute;"
            " `compiled` is `auto` with decoder layers under torch.compile where they are trained"
        ),
    ] = "auto"
    data: DataFormat = uses("data_format", tag="format")
    monitors: tuple[Monitor, ...] | None = uses("monitor", optional=True)  # monitors of stages that name none
    report_to: Annotated[
        str | list[str] | None,
        Field(
            description="trackers that every stage reports to, such as wandb; a stage's own trainer block goes first"
        ),
    ] = None
    stages: tuple[Stage, ...] = uses("stage", tag="stage")
    plugins: Annotated[
        list[str], Field(description="Python files with components of your own, relative to the recipe's folder")
    ] = field(default_factory=list)
    checkpoint: Annotated[
        Checkpoint | None,
        Field(description="how often trainings are saved (`5 min`, `100 steps`) for `--resume`; `none` saves nothing"),
    ] = Checkpoint()
    seed: Annotated[int, Field(ge=0, lt=2**32, description="of everything random")] = 0
    output_dir: Annotated[Path, Field(description="where the run is kept; runs/<name of the recipe> when left out")]


def json_schema(registry: Registry) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a recipe, with the options of every registered component."""
    writer = _Writer(registry)
    recipe = writer.block(Recipe)
    recipe["required"].remove("output_dir")
    recipe["properties"] |= SCHEMA
    return {"$schema": DIALECT, "title": "rlhf-plugins recipe", **recipe, "$defs": writer.defs}


class _Writer:
    """Writes schemas; parts that several of them share go to `defs`."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.defs: dict[str, Any] = {}

    def block(self, cls: type, tag: str = "", name: str = "") -> dict[str, Any]:
        """An object with the options of `cls` and nothing else; `tag` is the key that says `name`."""
        known = options(cls)
        properties = {tag: {"const": name}} if tag else {}
        reserved: frozenset[str] = getattr(cls, "reserved", frozenset())
        properties |= {option.name: self.option(option, reserved) for option in known.values()}
        required = ([tag] if tag else []) + [option.name for option in known.values() if option.required]
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    def option(self, option: Option, reserved: frozenset[str]) -> dict[str, Any]:
        """The schema of one option."""
        if option.kind:
            one = self.component(option)
            one = {"type": "array", "items": one, "minItems": int(option.required)} if option.many else one
            return {"anyOf": [one, {"enum": [NONE, None]}]} if option.nullable else one
        if option.block:
            none = [{"enum": [NONE, None]}] if option.optional else []
            about = {"description": option.description} if option.description else {}
            return {"anyOf": [self.block(option.block), *none], **about}
        if option.config:
            return self.config(option.config, reserved)
        default = {} if option.required else {"default": plain(option.annotation, option.default)}
        return {**self.leaf(option.annotation), **default}

    def component(self, option: Option) -> dict[str, Any]:
        """A name, or an object with the tag and the options of that component."""
        kind, names = str(option.kind), self.registry.names(str(option.kind))
        blocks = [self.named(kind, name, option.tag) for name in names]
        blocks += [{"type": "string"}] * bool(getattr(self.registry.base(kind), "named", None))
        if option.required or option.many or option.nullable:
            return {"anyOf": [{"enum": names}, *blocks]}
        silent = self.block(self.registry.get(kind, option.default), option.tag, option.default)
        silent["required"].remove(option.tag)
        return {"anyOf": [{"enum": names}, *blocks, silent], "default": option.default}

    def named(self, kind: str, name: str, tag: str) -> dict[str, str]:
        """A reference to a component's block, written once."""
        key = f"{kind}.{name}" if tag == "use" else f"{kind}.{name}.{tag}"
        if key not in self.defs:
            self.defs[key] = {}  # stops a component that holds its own kind
            try:
                self.defs[key] = self.block(self.registry.get(kind, name), tag, name)
            except PluginError as error:  # its options cannot be read; the others' can
                self.defs[key] = {"type": "object", "properties": {tag: {"const": name}}, "description": str(error)}
        return {"$ref": f"#/$defs/{key}"}

    def config(self, config: str, reserved: frozenset[str]) -> dict[str, Any]:
        """The options of a TRL configuration class."""
        known, hidden = config_options(config), reserved | SECRETS
        types = {name: self.leaf(hint) for name, hint in known.items() if name not in hidden}
        return {"type": ["object", "null"], "properties": types, "additionalProperties": False}

    def leaf(self, annotation: Any) -> dict[str, Any]:
        """The schema of a plain value; empty where its type has none."""
        try:
            schema = adapter(annotation).json_schema(ref_template="#/$defs/{model}")
        except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
            return {}
        self.defs |= schema.pop("$defs", {})
        return schema
