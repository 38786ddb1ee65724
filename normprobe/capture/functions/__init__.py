"""Layers that no hook sees: their weight is used by a function of torch while their module is not called.

In comes each function that a forward calls (`function_mode`, which listens no more often than it must). Out
go the layers whose weight it used, with the tensors that went in and came out (`function_session`).
`attention_weights` reads attention where its softmax shows it.
`fused_encoder` says where torch computes otherwise under such a mode, or under hooks.
"""
