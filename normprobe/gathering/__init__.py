"""Recordings of several processes of torch.distributed, brought together.

In comes the recording of each process, out goes that of all: `gather` moves them as bytes, as files hold
them, by the object collectives of torch.distributed, and merges them on the first process.
"""
