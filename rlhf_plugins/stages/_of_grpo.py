"""Options of TRL's GRPOConfig that the stage `online` refuses, since nothing in it would read them."""

UNREAD = frozenset(  # options that TRL's own passes, objective, evaluation, tools and tables alone would read
    {
        "beta",
        "cast_lm_head_to_fp32",
        "data_seed",
        "dataloader_drop_last",
        "delta",
        "entropy_coef",
        "entropy_coef_delta",
        "entropy_coef_max",
        "entropy_coef_min",
        "entropy_target",
        "epsilon",
        "epsilon_high",
        "importance_sampling_level",
        "label_smoothing_factor",
        "log_completions",
        "log_completions_hub_repo",
        "log_multimodal",
        "log_unique_prompts",
        "loss_type",
        "mask_truncated_completions",
        "max_tool_calling_iterations",
        "model_init_kwargs",
        "multi_objective_aggregation",
        "num_completions_to_print",
        "num_generations_eval",
        "off_policy_mask_threshold",
        "ref_model_mixup_alpha",
        "ref_model_sync_steps",
        "resume_from_checkpoint",
        "reward_weights",
        "router_aux_loss_coef",
        "sapo_temperature_neg",
        "sapo_temperature_pos",
        "scale_rewards",
        "sync_ref_model",
        "top_entropy_quantile",
        "train_sampling_strategy",
        "transformers_continuous_batching_config",
        "use_adaptive_entropy",
        "use_bias_correction_kl",
        "use_transformers_continuous_batching",
        "use_transformers_paged",
        "vespo_k_neg",
        "vespo_k_pos",
        "vespo_lambda_neg",
        "vespo_lambda_pos",
        "vllm_importance_sampling_cap",
    }
)

CLIPPED = "is an option of the policy loss here: write `policy_loss: {use: clip, epsilon: 0.2, epsilon_high: 0.28}`"
OF_GRPO_CONFIG = {  # -> what does it here
    "beta": "is the strength of the KL here: write `kl: {use: in_loss, coef: 0.04}`, or `kl: none` for 0",
    "epsilon": CLIPPED,
    "epsilon_high": CLIPPED,
    "loss_type": "is the estimator, the clipping and the reduction here: write `advantage: grpo` and `reduction: "
    "responses` for grpo, `reduction: tokens` for dapo, `advantage: dr_grpo` and `reduction: {use: constant, "
    "length: 512}` for dr_grpo",
    "scale_rewards": "is the estimator here: write `advantage: grpo`, or `advantage: dr_grpo` for false",
}
