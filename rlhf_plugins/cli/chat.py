"""`rlhf chat`: a conversation with a trained policy, or with two."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_plugins.cli.echo import echo
from rlhf_plugins.cli.policies import PolicyArgument, Seed, with_sampling
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.errors import RlhfError, RunError, nearest

if TYPE_CHECKING:
    from rlhf_plugins.saved.conversation import Conversation

LONG = 512  # tokens of an answer
HELP = {
    "/again": "another answer to the last line; with one policy, the answer before becomes answer 1",
    "/better 1|2": "write that answer as the better of the two, and go on from it",
    "/reward": "the reward model's score of each answer",
    "/reset": "forget what was said",
    "/help": "this list",
    "/quit": "end; so does the end of the input",
}


@with_sampling(temperature=0.7)
def chat(
    model: PolicyArgument,
    beside: Annotated[str | None, typer.Option(metavar="RUN#STAGE", help="A second policy that answers too.")] = None,
    reward: Annotated[
        str | None, typer.Option(metavar="RUN#STAGE", help="The reward model of /reward; the run's last if not given.")
    ] = None,
    preferences: Annotated[Path, typer.Option(help="The file that /better adds to.")] = Path("preferences.jsonl"),
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Where an answer is cut; if not given {LONG}, or fewer where the reward model takes no more."
        ),
    ] = None,
    seed: Seed = 0,
    **how: Any,
) -> None:
    """Talk to a policy, or to two at once; /help lists what can be done. Lines may come from a pipe."""
    from rlhf_plugins.saved.run_reference import made

    found = [made(words, "policies") for words in (model, beside) if words]  # before the imports that take seconds

    from rlhf_plugins.engine.sampling import Decoding
    from rlhf_plugins.saved.conversation import Conversation, judge_of, reader_of, text_ending

    decoding = Decoding(max_new_tokens or LONG, seed=seed, **how)
    judge = judge_of(found[0], reward)
    opened = [(one.label, one.policy()) for one in found]
    ending, notes = text_ending(found, opened[0][1].tokenizer.chat_template is not None)
    reader = None if max_new_tokens else reader_of(judge)
    chat = _Chat(Conversation(opened, decoding, judge, preferences, ending, reader))
    chat.greet(notes)
    for line in _lines():
        if not chat.take(line.strip()):
            return


def _lines() -> Iterator[str]:
    """Lines of a terminal, which can be edited, or of a pipe."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    import readline  # noqa: F401  # `input` edits lines with it

    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            echo()
            return


@dataclass
class _Chat:
    talk: Conversation

    def greet(self, notes: Sequence[str]) -> None:
        names = " and ".join(name for name, _ in self.talk.policies)
        echo(f"{names}; /help lists the commands", err=True)
        for note in notes:
            echo(note, err=True)

    def take(self, line: str) -> bool:
        """Does a command, or lets the policies answer a line; False ends the conversation."""
        if not line:
            return True
        try:
            if line.startswith("/"):
                return self._command(*line.split())
            self.talk.ask(line)
            self._answer()
        except RlhfError as error:
            echo(str(error), err=True)
        return True

    def _command(self, word: str, *rest: str) -> bool:
        commands: dict[str, Callable[..., None]] = {
            "/again": self._again,
            "/better": self._better,
            "/reward": self._reward,
            "/reset": self.talk.reset,
            "/help": self._help,
        }
        if word == "/quit":
            return False
        if word not in commands:
            raise RunError(f"unknown command {word} {nearest(word, [*commands, '/quit'])}")
        if rest and word != "/better":
            raise RunError(f"{word} takes no {rest[0]!r}")
        commands[word](*rest)
        return True

    def _help(self) -> None:
        for usage, about in HELP.items():
            echo(f"{usage:<12} {about}")

    def _again(self) -> None:
        self.talk.again()
        if self.talk.answers:
            echo("[1] is the answer before")
        self._answer()

    def _answer(self) -> None:
        """One answer of each policy as it is sampled; Ctrl-C cuts the answer short."""
        talk = self.talk
        numbered = len(talk.policies) > 1 or bool(talk.answers)
        for name, policy in talk.policies:
            number = len(talk.answers) + 1
            if numbered:
                echo(f"[{number}] {name}: ", nl=False)
            which = f"answer {number} " if numbered else ""
            pieces = talk.answer(name, policy)
            try:
                for piece in pieces:
                    echo(piece, nl=False)
                    sys.stdout.flush()
                ended = len(talk.answers) == number and talk.answers[-1].ended
                cut = "" if ended else f" [{which}cut; see --max-new-tokens]"
            except KeyboardInterrupt:
                pieces.close()  # type: ignore[attr-defined]
                cut = f" [{which}stopped]"
            echo(cut)

    def _better(self, *words: str) -> None:
        if len(words) != 1 or not words[0].isdigit():
            raise RunError("/better 1 or /better 2: which of the two answers is better")
        number = int(words[0])
        row = self.talk.prefer(number)
        one, other = row["chosen_by"], row["rejected_by"]
        if one == other:
            one, other = f"answer {number}", f"answer {3 - number}"
        echo(f"{self.talk.file}: {one} is better than {other}")

    def _reward(self) -> None:
        for number, (answer, reward) in enumerate(zip(self.talk.answers, self.talk.rewards(), strict=True), start=1):
            echo(f"[{number}] {answer.by}: {reward:.4g}")


@hookimpl
def register_commands() -> dict[str, Any]:
    """The command of this file."""
    return {"chat": chat}
