"""The numbers of the figures: tables in, small frozen records or frames of statistics out; nothing is drawn.

`layer_statistics` has what several figures share; a file of the same name as one of `plots` has the numbers
of that figure, where they are more than a function.
"""
