"""The commands. What a command needs is imported in its function, so that `rlhf --help` answers at once."""

from __future__ import annotations

import errno
import json
import logging
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from rlhf_plugins.cli.echo import confirmed, echo, echo_table, echo_whole, encodable
from rlhf_plugins.cli.plugins import plugins
from rlhf_plugins.cli.plugins_check import check as check_plugins
from rlhf_plugins.cli.threads import wait_asleep
from rlhf_plugins.contract import processes
from rlhf_plugins.errors import PluginError, ReportError, RlhfError, RunError

if TYPE_CHECKING:
    from rlhf_plugins.registry.registry import Registry
    from rlhf_plugins.report.schema import Report

TOGETHER = ("run", "score")  # commands that several processes run together
BAD_INPUT, NO_REPORT = 2, 3  # exit codes
BY_SIGNAL = 128  # and the number of the signal that ended the command: 130 for Ctrl-C


class Commands(TyperGroup):
    """Turns our errors and Ctrl-C into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except ReportError as error:
            echo(str(error), err=True)
            ctx.exit(NO_REPORT)
        except RlhfError as error:
            _complain(error)
            ctx.exit(BAD_INPUT)
        except OSError as error:  # a disk, a permission or a name that no command could foresee
            if error.errno == errno.EPIPE:  # which click ends quietly
                raise
            where = f"{error.filename}: " if error.filename else ""
            echo(f"{where}{error.strerror or error}", err=True)
            ctx.exit(BAD_INPUT)
        except KeyboardInterrupt as stop:
            echo(f"\n{str(stop) or 'interrupted'}", err=True)
            ctx.exit(BY_SIGNAL + getattr(stop, "number", signal.SIGINT))


def _complain(error: RlhfError) -> None:
    """Prints an error; of several processes, those beside the main one print only errors of their own."""
    place = os.environ.get("RANK", "0") if processes.is_launched() else "0"
    if place == "0":
        echo(str(error), err=True)
    elif not processes.silent():
        echo(f"process {place}: {error}", err=True)


app = typer.Typer(
    cls=Commands,
    help="Reward modelling and RLHF from recipes. Every head, pooling, loss, estimator and reward is a plugin.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # rich costs half of the time that `rlhf --help` has
)
plugins.command("check")(check_plugins)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a bundled recipe.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as stages.ppo.trainer.max_steps=10."),
]
TrustPlugins = Annotated[bool, typer.Option("--trust-plugins", help="Run the code of files that it names.")]


def main() -> None:
    """The console script."""
    if sys.platform == "linux" and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # read when CUDA starts
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # against fragmentation
    wait_asleep()
    # bitsandbytes warns of an optional kernel at every import on a CPU.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # PEFT reads a name that transformers is about to drop, and warns where a run was moved together with its base.
    warnings.filterwarnings("ignore", r"`is_gradient_checkpointing` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", r"The PEFT config's `base_model_name_or_path` was renamed", UserWarning)
    encodable()
    try:
        app(prog_name="rlhf")
    except OSError as error:  # the output cannot be written
        echo(f"the output cannot be written: {error.strerror or error}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or its flush would fail once more
        raise SystemExit(BAD_INPUT) from None


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    engine: Annotated[str, typer.Option(help="auto; plain: no fast paths of ours; compiled: torch.compile.")] = "auto",
) -> None:
    if processes.is_launched() and ctx.invoked_subcommand not in TOGETHER:
        raise RunError(f"rlhf {ctx.invoked_subcommand or ''} runs in one process, and a launcher started several")
    if engine != "auto":
        from rlhf_plugins.engine import set_engine

        ctx.with_resource(set_engine(engine))
    if version:
        from importlib.metadata import version as installed

        echo(f"rlhf-plugins {installed('rlhf-plugins')}")
        raise typer.Exit


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option(help="Go on with a run; finished stages are kept.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Delete the existing run first.")] = False,
    fit: Annotated[bool, typer.Option("--fit", help="Compute less at once where the GPU is too small.")] = False,
    launch: Annotated[
        Path | None, typer.Option(metavar="CONFIG", help="Start the processes of a configuration of accelerate.")
    ] = None,
) -> None:
    """Run a recipe and write its report."""
    if launch is not None:
        _launch(launch)
    from rlhf_plugins.recipe.check import find, named_files
    from rlhf_plugins.registry.trust import ask

    find(recipe)  # a missing file is reported before imports that take seconds
    with _saying_how_to_go_on(recipe, overrides or ()) if resume else nullcontext():
        from rlhf_plugins.run.run import run_recipe

        ask(named_files(recipe, overrides or ()), True, None, recipe)  # who runs it trusts it
        finished = run_recipe(recipe, overrides or (), resume=resume, overwrite=overwrite, fit=fit, say=echo)
    main = processes.is_main()
    processes.leave()
    if not main:
        return
    if finished.members:
        _show_members(finished.folder)
        return
    if finished.unreported:
        again = f"write it with: rlhf report {shlex.quote(str(finished.folder))}"
        raise ReportError(f"the run is finished, without its report: {finished.unreported}\n{again}")
    if finished.page.exists():
        _show(finished.report, finished.page)
    else:
        echo(str(finished.folder))


@contextmanager
def _saying_how_to_go_on(recipe: str, overrides: Sequence[str]) -> Iterator[None]:
    """Adds the command that goes on where a resumed run is interrupted before it begins a stage."""
    from rlhf_plugins.run.stop import Ended

    try:
        yield
    except KeyboardInterrupt as stop:
        if str(stop):
            raise
        again = shlex.join(["rlhf", "run", "--resume", recipe, *overrides])
        number = getattr(stop, "number", signal.SIGINT)
        raise Ended(f"interrupted before a stage began\ngo on with: {again}", number) from None


def _launch(config: Path) -> None:
    """Has accelerate start this command in several processes, and leaves with their exit code."""
    from rlhf_plugins.run.launch import launch as start

    words, place = sys.argv[1:], next(i for i, word in enumerate(sys.argv[1:]) if word.startswith("--launch"))
    own = 1 if "=" in words[place] else 2  # the option, and its value
    raise typer.Exit(start(config, [*words[:place], *words[place + own :]]))


@app.command()
def check(recipe: RecipeArgument, overrides: Overrides = None, trust_plugins: TrustPlugins = False) -> None:
    """Check a recipe and name every fault, without running it; of files under `plugins:`, only those that you trust."""
    from rlhf_plugins.recipe.check import load_recipe, named_files, several
    from rlhf_plugins.recipe.course import courses
    from rlhf_plugins.registry.trust import ask

    ask(named_files(recipe, overrides or ()), trust_plugins, confirmed(), recipe)
    members = several(recipe, overrides or ())  # raises what needs no import of seconds
    from rlhf_plugins.run.preflight import Preflight

    assembled = load_recipe(recipe, overrides or (), preflight=(preflight := Preflight()))
    found = courses(assembled, kept=preflight.kept)
    count = "1 stage" if len(found) == 1 else f"{len(found)} stages"
    times = f"{len(members)} times " if members else ""
    long = [f"  {name}: {course.words}" for name, course in found.items() if course]
    seen = [f"  {sentence}" for sentence in preflight.sentences()]
    read = [f"  {preflight.data}"] if preflight.data else []
    echo("\n".join([f"{recipe}: ok, {times}{count}: {', '.join(found)}", *read, *long, *seen]))


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from rlhf_plugins.recipe.schema import json_schema
    from rlhf_plugins.registry.registry import registry

    echo_whole(json.dumps(json_schema(registry()), indent=2, ensure_ascii=False))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="A run's folder; several are compared.")],
) -> None:
    """Write a run's report again and print its table; of several runs, or of seeds and a sweep, one table of all."""
    from rlhf_plugins import report as reports
    from rlhf_plugins.run.files import reporting
    from rlhf_plugins.run.files.catalogue import find
    from rlhf_plugins.run.files.folder import RunFolder
    from rlhf_plugins.run.members import is_several

    for missing in (run for run in runs if not run.is_dir()):
        find(missing)
    if several := [run for run in runs if is_several(run)]:
        if len(runs) > 1:
            raise RunError(f"{several[0]} holds seeds or a sweep: give it alone, or name single members of it")
        _show_members(runs[0])
        return
    built = {run: reporting.build(RunFolder(run)) if RunFolder(run).is_run else reports.read(run) for run in runs}
    if len(built) > 1:
        _compare({str(run): made for run, made in built.items()})
        return
    for run, made in built.items():
        _show(made, reporting.write(RunFolder(run), made))


def _show_members(root: Path) -> None:
    from rlhf_plugins.report.over_seeds import sentences
    from rlhf_plugins.report.seeds_table import accuracy_table, seeds_table
    from rlhf_plugins.run.members import reports, write_page

    groups = reports(root)
    if any(made.policies for several in groups.values() for made in several):
        echo_table(seeds_table(groups))
    if (models := accuracy_table(groups)) is not None:
        echo_table(models)
    counted = f"{root}: {sum(map(len, groups.values()))} finished members"
    echo("\n".join([*sentences(groups), counted, str(write_page(root))]))


def _compare(reports: dict[str, Report]) -> None:
    from rlhf_plugins.report.compare import compared, compared_reward_models, compared_tasks, obstacles

    if any(made.policies for made in reports.values()):
        echo_table(compared(reports))
    if any(made.measured_reward_models for made in reports.values()):
        echo_table(compared_reward_models(reports))
    if (tasks := compared_tasks(reports)) is not None:
        echo_table(tasks)
    for sentence in obstacles(reports):
        echo(sentence)


def _show(made: Report, page: Path) -> None:
    from rlhf_plugins.report import reward_table, rich_table, summary, task_tables

    if made.policies:
        echo_table(rich_table(made))
    if made.reward_models:
        echo_table(reward_table(made))
    for table in task_tables(made):
        echo_table(table)
    echo("\n".join([*summary(made), str(page)]))


def _attach() -> None:
    """Adds the commands of plugins and ours; one that cannot be added is reported and skipped."""
    from rlhf_plugins.registry.registry import COMMANDS, commands

    try:
        found = commands()
    except PluginError as error:  # the list of disabled plugins is unreadable, so nothing may load
        echo(str(error), err=True)
        raise SystemExit(BAD_INPUT) from error
    taken = {c.name or getattr(c.callback, "__name__", "") for c in app.registered_commands}
    for name in found.names(COMMANDS):
        command: Any = found.get(COMMANDS, name)
        if name in taken:
            echo(f"command {name!r} of a plugin is left out: rlhf has one of its own", err=True)
        elif fault := _fault(found, name, command):
            echo(f"warning: {fault}", err=True)
        else:
            _add(app, name, command)
    for left_out in found.unloaded:
        if left_out.status == "broken":
            echo(f"warning: {left_out}", err=True)


def _fault(found: Registry, name: str, command: Any) -> str:
    """Why typer cannot read a command of another package, which would make every command fail."""
    from rlhf_plugins.registry.registry import DISTRIBUTION

    plugin = next(one.plugin for one in found.describe() if one.name == name)
    if plugin.distribution == DISTRIBUTION:
        return ""
    try:
        _add(alone := typer.Typer(), name, command)
        typer.main.get_command(alone)
    except Exception as error:  # whatever its annotations hold
        return f"command {name!r} of plugin {plugin} is left out: {type(error).__name__}: {error}"
    return ""


def _add(to: typer.Typer, name: str, command: Any) -> None:
    if isinstance(command, typer.Typer):
        to.add_typer(command, name=name)
    else:
        to.command(name)(command)


_attach()
