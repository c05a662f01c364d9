"""Chat templates in the style of those that people use, written for these tests, and tiny bases that have them."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from rlhf_plugins.contract.run import Base
from rlhf_plugins.testing import tiny_base

TURNS = "{% for m in messages %}<turn>{{ m.role }} {{ m.content }}<end>\n{% endfor %}"
CHATML = TURNS + "{% if add_generation_prompt %}<turn>assistant {% endif %}"
HEADER = "{{ bos_token }}{% for m in messages %}<head>{{ m.role }}</head> {{ m.content | trim }}<eot>{% endfor %}"
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }} {{ eos_token }}"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
THOUGHT = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<answer> {{ m.content.split('</think>')[-1] }}{{ eos_token }}"
    "{% else %}<ask> {{ m.content }} {% endif %}{% endfor %}{% if add_generation_prompt %}<answer> {% endif %}"
)
QWEN = (
    "{% if tools %}<turn>system {{ tools | tojson }}<end>\n{% endif %}{% for m in messages %}<turn>{{ m.role }} "
    "{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}<end>\n"
    "{% endfor %}{% if add_generation_prompt %}<turn>assistant "
    "{% if enable_thinking is defined and not enable_thinking %}<think> </think> {% endif %}{% endif %}"
)
TEMPLATES = {
    "llama2": INST,
    "llama3": HEADER + "{% if add_generation_prompt %}<head>assistant</head> {% endif %}",
    "mistral": INST.replace(" {{ m.content }} {{ eos_token }}", " {{ m.content }}{{ eos_token }}"),
    "qwen": QWEN,
    "chatml": CHATML,
    "gemma": "{{ bos_token }}" + CHATML.replace("<end>", "<eot>"),
    "r1": THOUGHT,
    "zephyr": CHATML.replace("<turn>", "<|").replace(" {{ m.content }}<end>", "|> {{ m.content }} {{ eos_token }}"),
}
ENDS = {"llama3": "<eot>", "gemma": "<eot>", "chatml": "<end>", "qwen": "<end>"}  # of the others EOS
MARKS = [
    "<turn>",
    "<end>",
    "<head>",
    "</head>",
    "<eot>",
    "<call>",
    "</call>",
    "<ask>",
    "<answer>",
    "<think>",
    "</think>",
]
BOS = "<bos>"


def chat_base(folder: Path, style: str, architecture: str = "llama", template: str = "", **config: object) -> Base:
    """A tiny base with the template of that style; its tokenizer's EOS is `<eos>` in every style."""
    base = tiny_base(folder, architecture, vocab_size=48, **config)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    tokenizer.add_special_tokens({"bos_token": BOS})
    tokenizer.add_tokens(MARKS, special_tokens=True)
    tokenizer.chat_template = template or TEMPLATES[style]
    tokenizer.save_pretrained(base.path)
    return base
