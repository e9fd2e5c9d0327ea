"""Learning from a teacher: a trained network's answers to the very images that the student sees.

Sources: Hinton et al., "Distilling the knowledge in a neural network" (2015); Beyer et al., "Knowledge distillation: a
good teacher is patient and consistent" (2022), which asks for the same changes of an image for both, and many epochs.
"""

import torch
from torch.nn.functional import kl_div, log_softmax


def distance(logits: torch.Tensor, answers: torch.Tensor, temperature: float) -> torch.Tensor:
    """Give the mean divergence of a student's `logits` from a teacher's `answers`, both float [batch, classes].

    Both are divided by `temperature` before their softmax, so that classes that are wrong weigh in; the square of it
    keeps the gradient's size.
    """
    found, expected = log_softmax(logits.float() / temperature, 1), log_softmax(answers.float() / temperature, 1)
    return kl_div(found, expected, reduction="batchmean", log_target=True) * temperature**2
