"""How pixels are normalised: the mean and deviation of CLIP's training data (Radford et al. 2021)."""

from typing import Final

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
