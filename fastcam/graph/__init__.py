"""What the recorded autograd graph says: pooled heads, the next affine layer, ReLU rules, bias gradients."""
