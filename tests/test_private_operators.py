"""Every operator of torch that we call although nobody promises it, with the arguments and results that we use."""

from __future__ import annotations

from typing import Any

import pytest
import torch

ATEN = torch.ops.aten

SCHEMAS: list[tuple[Any, str, str]] = [
    (
        ATEN._scaled_dot_product_flash_attention_for_cpu,
        "(Tensor query, Tensor key, Tensor value, float dropout_p=0., bool is_causal=False, *, Tensor? attn_mask=None, "
        "float? scale=None) -> (Tensor output, Tensor logsumexp)",
        "attention by spans",
    ),
    (
        ATEN._scaled_dot_product_flash_attention_for_cpu_backward,
        "(Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor out, Tensor logsumexp, float dropout_p, bool "
        "is_causal, *, Tensor? attn_mask=None, float? scale=None) -> (Tensor grad_query, Tensor grad_key, "
        "Tensor grad_value)",
        "attention by spans",
    ),
    (
        ATEN._flash_attention_forward,
        "(Tensor query, Tensor key, Tensor value, Tensor? cum_seq_q, Tensor? cum_seq_k, SymInt max_q, SymInt max_k, "
        "float dropout_p, bool is_causal, bool return_debug_mask, *, float? scale=None, SymInt? window_size_left=None, "
        "SymInt? window_size_right=None, Tensor? seqused_k=None, Tensor? alibi_slopes=None, Tensor? block_table=None, "
        "int? num_splits=None) -> (Tensor output, Tensor softmax_logsumexp, Tensor rng_state, Tensor unused, "
        "Tensor debug_attn_mask)",
        "packed rows on a GPU",
    ),
    (
        ATEN._flash_attention_backward,
        "(Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor out, Tensor logsumexp, Tensor cum_seq_q, "
        "Tensor cum_seq_k, SymInt max_q, SymInt max_k, float dropout_p, bool is_causal, Tensor rng_state, "
        "Tensor unused, *, float? scale=None, SymInt? window_size_left=None, SymInt? window_size_right=None) -> "
        "(Tensor, Tensor, Tensor)",
        "packed rows on a GPU",
    ),
    (
        ATEN.native_layer_norm_backward,
        "(Tensor grad_out, Tensor input, SymInt[] normalized_shape, Tensor mean, Tensor rstd, Tensor? weight, Tensor? "
        "bias, bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
        "fused norms",
    ),
    (
        ATEN.addmm,
        "(Tensor self, Tensor mat1, Tensor mat2, ScalarType out_dtype, *, Scalar beta=1, Scalar alpha=1) -> Tensor",
        "gradients of adapters in half precision",
    ),
    (
        ATEN._fused_rms_norm,
        "(Tensor input, int[] normalized_shape, Tensor? weight, float? eps) -> (Tensor, Tensor)",
        "norms in half precision",
    ),
    (
        ATEN._fused_rms_norm_backward,
        "(Tensor grad_out, Tensor input, int[] normalized_shape, Tensor rstd, Tensor? weight, bool[2] output_mask) -> "
        "(Tensor, Tensor)",
        "forecasts of norms in half precision",
    ),
    (
        ATEN.silu_backward,
        "(Tensor grad_output, Tensor self, *, Tensor(a!) grad_input) -> Tensor(a!)",
        "fused gated blocks",
    ),
    (
        torch.ops.mkldnn._linear_pointwise,
        "(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y",
        "products by oneDNN",
    ),
]


@pytest.mark.parametrize(("operator", "schema", "user"), SCHEMAS, ids=lambda v: getattr(v, "__name__", None))
def test_an_operator_of_torch_has_the_schema_that_we_use(operator: Any, schema: str, user: str) -> None:
    schemas = [str(getattr(operator, overload)._schema) for overload in operator.overloads()]
    assert any(known.endswith(schema) for known in schemas), f"{operator} is now {schemas}, but {user} calls it"
