"""Deep feature factorization."""

from fastcam.compat.pytorch_grad_cam.feature_factorization import deep_feature_factorization

__all__ = ["deep_feature_factorization"]
