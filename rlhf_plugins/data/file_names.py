"""Names of the files of runs, of their stages and of saved models."""

RECIPE, STATUS = "recipe.yaml", "status.json"  # a folder with both is a run's
RESULT, FILES = "result.json", "files"  # a finished stage's file, and its entry of the digests
CALL = "call.json"  # in the folder of a stage that a stage or a session ran
STAGE_ROWS = "data.jsonl"  # in a stage's folder: the rows that it makes
OPTIMIZER = "optimizer.safetensors"  # in a stage's folder: the state that `keep_optimizer` keeps
CRITICS_OPTIMIZER = "value_optimizer.safetensors"  # the same of the critic's weights
VALUE_HEAD, VALUE_NETWORK = "value_head.safetensors", "value_network"  # a critic's weights, and its own model's folder
KL = "kl.safetensors"  # the coefficient of the KL at the end of a training, and the state of what adapts it
ADAPTER = "adapter_config.json"  # in the folder of a saved adapter
CHECKPOINTS = "checkpoints"  # in a stage's folder: what its training goes on from
POLICY, REWARD_MODEL, ENSEMBLE = "policy.json", "reward_model.json", "reward_ensemble.json"  # beside what was saved
