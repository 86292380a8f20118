"""The strength of edges in an image, a baseline that depends on no model."""

from fastcam.compat.pytorch_grad_cam._types import Array


def sobel_cam(img: Array) -> Array:
    """Return the mean of the absolute Sobel derivatives along both axes.

    Args:
        img: (H, W, 3), RGB, uint8 or float32.

    Returns:
        (H, W) uint8.
    """
    import cv2

    gray = cv2.cvtColor(img, cv2.COLOR_RGB2GRAY)
    along_x, along_y = (cv2.convertScaleAbs(cv2.Sobel(gray, cv2.CV_64F, *axis, ksize=3)) for axis in ((1, 0), (0, 1)))
    return cv2.addWeighted(along_x, 0.5, along_y, 0.5, 0)
