"""How a model is run: layers, hooks, inputs, batches, and the part of it after a layer."""
