"""Statistics in the files that quantizers read, with the numbers that their own collectors gather.

In: `normprobe.tables.frames.Tables`. Out: one file, and an `Export` that names what it lacks. `selection`
takes the moments of layers from the tables; `torch_files` has the formats that torch loads, `imatrix` those
of llama.cpp, whose names `gguf_names` knows, with experts of one weight (`one_weight_experts`); `write` has
all formats by name.
"""

from normprobe.tables.quantizer_files.write import Export, write_export

__all__ = ["Export", "write_export"]
