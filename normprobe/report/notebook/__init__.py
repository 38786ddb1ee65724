"""What a notebook shows: tables and findings come in, a cell of at most 40 kB of HTML goes out.

Drawn by hand, as importing matplotlib takes longer than a person waits for a cell.
"""
