"""While the model runs: hooks, forwards, and what each layer reads and writes."""
