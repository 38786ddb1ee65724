"""The tables of experts, those of one weight and those that are modules of a list.

In: the records of modules of experts, base frames of a recording, or those of several. Out: base frames, which
are saved and merged (`expert_frames`), and the public tables (`expert_tables`). `listed` reads what experts of a
list are from the frames of layers, where they were measured as any Linear is.
"""
