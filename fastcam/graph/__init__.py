"""Analysis of the recorded autograd graph: pooled heads, the next affine layer, ReLU rules, bias gradients."""
