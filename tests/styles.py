"""Chat templates in the manner of those that people use, with their special tokens; written for these tests.

Their tokenizer has one token a byte, so that all that a template writes can be read back, line breaks too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf_plugins.contract.run import Base
from rlhf_plugins.testing import tiny_base

EACH, END = "{% for m in messages %}", "{% endfor %}"
REFUSES = (
    "{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('no turn of the role ' + m.role) }}{% endif %}"
)


def asking(text: str) -> str:
    """What a template writes for a model to go on from."""
    return f"{{% if add_generation_prompt %}}{text}{{% endif %}}"


CHATML = EACH + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n" + END + asking("<|im_start|>assistant\n")
LLAMA2 = (
    "{% set given = messages[0].content if messages[0].role == 'system' else none %}"
    "{% for m in (messages if given is none else messages[1:]) %}" + REFUSES + "{% if m.role == 'user' %}"
    "{{ bos_token }}[INST] {% if loop.first and given is not none %}<<SYS>>\n{{ given }}\n<</SYS>>\n\n{% endif %}"
    "{{ m.content | trim }} [/INST]{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
HEAD = "<|start_header_id|>%s<|end_header_id|>\n\n"
LLAMA3 = (
    "{{ bos_token }}{% if tools %}" + HEAD % "system" + "{{ tools | tojson }}<|eot_id|>{% endif %}"
    + EACH + HEAD % "{{ m.role }}" + "{{ m.content | trim }}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|eot_id|>"
    + END + asking(HEAD % "assistant")
)  # fmt: skip
MISTRAL = (
    "{{ bos_token }}" + EACH + REFUSES + "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}" + END
)
THOUGHT = "<think>\n%s\n</think>\n\n"
QWEN = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}" + EACH + "<|im_start|>{{ m.role }}"
    "\n{% if m.role == 'assistant' and loop.last %}" + THOUGHT % "{{ m.reasoning_content or '' }}" + "{% endif %}"
    "{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n" + END + asking("<|im_start|>assistant\n")
    + "{% if enable_thinking is defined and not enable_thinking %}" + asking(THOUGHT % "") + "{% endif %}"
)  # fmt: skip
GEMMA = (
    "{{ bos_token }}" + EACH + REFUSES + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n" + END + asking("<start_of_turn>model\n")
)
R1 = (
    "{{ bos_token }}" + EACH + "{% if m.role == 'assistant' %}<|Assistant|>{{ m.content.split('</think>')[-1] }}"
    "{{ eos_token }}{% elif m.role == 'user' %}<|User|>{{ m.content }}{% else %}{{ m.content }}{% endif %}"
    + END + asking("<|Assistant|>")
)  # fmt: skip
ZEPHYR = EACH + "<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n" + END + asking("<|assistant|>\n")


@dataclass(frozen=True)
class Style:
    """A template, its special tokens, and the text of a response as the model must write it."""

    template: str
    eos: str = "</s>"
    bos: str | None = None
    marks: tuple[str, ...] = ()
    end: str = "</s>"
    before: str = ""  # what a response begins with
    after: str = ""  # what the template writes behind the end of a response


THINKS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", *THINKS)
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TURNS = ("<start_of_turn>", "<end_of_turn>")
SENTENCE = ("<|end_of_sentence|>", "<|begin_of_sentence|>")
STYLES = {
    "llama2": Style(LLAMA2, bos="<s>", before=" ", end=" </s>"),
    "llama3": Style(LLAMA3, "<|end_of_text|>", "<|begin_of_text|>", HEADERS, "<|eot_id|>"),
    "mistral": Style(MISTRAL, bos="<s>", before=" "),
    "qwen": Style(QWEN, IM[1], None, IM, IM[1], before=THOUGHT % "", after="\n"),
    "qwen_unthinking": Style("{% set enable_thinking = false %}" + QWEN, IM[1], None, IM, IM[1], after="\n"),
    "chatml_on_a_base": Style(CHATML, IM[2], None, IM, IM[1], after="\n"),
    "gemma": Style(GEMMA, "<eos>", "<bos>", TURNS, TURNS[1], after="\n"),
    "r1": Style(R1, *SENTENCE, ("<|User|>", "<|Assistant|>", *THINKS), SENTENCE[0]),
    "zephyr": Style(ZEPHYR, after="\n"),
}


def style_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """One token a byte, and the special tokens of the style."""
    style = STYLES[name]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=style.eos, bos_token=style.bos, pad_token="<pad>")
    made.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in style.marks])
    made.chat_template = style.template
    return made


def style_base(folder: Path, name: str) -> Base:
    """A tiny base with the tokenizer of the style."""
    tokenizer = style_tokenizer(name)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    base = tiny_base(folder, vocab_size=len(tokenizer), **ids)
    tokenizer.save_pretrained(folder)
    return base
