"""How far an accuracy may lie from what more images of the same kind would give."""

import math

# Of the normal distribution, for 95 %.
QUANTILE = 1.959964


def interval(correct: float, images: int) -> tuple[float, float]:
    """Give Wilson's 95 % interval of a share: E. B. Wilson, "Probable Inference" (1927). Raises for no images."""
    share, squared = correct / images, QUANTILE**2 / images
    middle = share + squared / 2
    reach = QUANTILE * math.sqrt((share * (1 - share) + squared / 4) / images)
    return max(0.0, (middle - reach) / (1 + squared)), min(1.0, (middle + reach) / (1 + squared))
