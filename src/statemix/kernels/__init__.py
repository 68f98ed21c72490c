"""Arithmetic only: one folder a backend, the same file names and one signature in each.

    forward(gate_logits, values, initial_state, cu_seqlens, normalization) -> (hidden, final_state)
    backward(gate_logits, values, initial_state, cu_seqlens, hidden, grad_hidden, grad_final_state,
             normalization) -> (grad_gate_logits, grad_values, grad_initial_state)

Arguments have been checked by :mod:`statemix.ops`. A backend is imported when it is first used.
"""
