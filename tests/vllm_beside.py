"""What is taken for vLLM where it shares a training's GPUs: it answers as the server of the tests does.

A process that runs `BESIDE` first writes what its model was asked and given to `vllm-RANK.json`.
"""

BESIDE = """\
import json, os
from types import SimpleNamespace as Record
import trl.generation.vllm_generation as generation

class LLM:
    def __init__(self, model, **options):
        self.asked, self.ends, self.weights, self.sums = [], [], [], {}
        worker = Record(model_runner=Record(model=self))
        self.llm_engine = Record(model_executor=Record(driver_worker=worker))
        self.options = options

    def load_weights(self, pairs):
        self.sums.update((name, float(each.double().square().sum())) for name, each in pairs)

    def reset_prefix_cache(self):
        self.weights.append(self.sums)
        self.sums = {}

    def generate(self, prompts, sampling_params, use_tqdm):
        ids = [each["prompt_token_ids"] for each in prompts]
        places = [sum(one == each for one in ids[:place]) for place, each in enumerate(ids)]
        self.asked.append(ids)
        self.ends.append(sampling_params["stop_token_ids"])
        found = [self.answer(*each) for each in zip(ids, places)]
        with open(f"vllm-{os.environ.get('RANK', '0')}.json", "w") as file:
            json.dump({"asked": self.asked, "ends": self.ends, "weights": self.weights}, file)
        return found

    def answer(self, prompt, place):
        first = sum(prompt) * 7 + 5 * place + len(self.weights)
        ids = [3 + (first + 3 * i) % 12 for i in range(1 + first % 5)] + [1] * (first % 2)
        logprobs = [{each: Record(logprob=-1.0, rank=1)} for each in ids]
        return Record(prompt_token_ids=prompt, outputs=[Record(token_ids=ids, logprobs=logprobs)])

generation.is_vllm_available = lambda *_: True
generation.LLM, generation.SamplingParams = LLM, dict
"""
