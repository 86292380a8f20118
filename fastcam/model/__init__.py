"""Running a model: layers, hooks, inputs, batches, and the part of the model after a layer."""
