"""Text for a terminal of 80 to 120 columns: tables and findings, or a comparison, come in; lines go out.

No colour and no control codes: the command line adds what its stream can show.
"""
