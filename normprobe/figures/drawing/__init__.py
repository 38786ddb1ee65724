"""How anything is drawn, whatever it shows: axes, labels, colours, the axis of depth, and the writing of SVG.

A `Plan` comes in (`canvas`), a matplotlib figure or a small SVG tree goes out (`svg`). Nothing here reads
tables.
"""
