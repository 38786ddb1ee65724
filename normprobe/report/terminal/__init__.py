"""Text for a terminal, a file or a notebook: tables and findings, or a comparison, come in; lines go out.

No colour and no control codes: the command line adds what its stream can show.
"""
