"""Several networks that answer as one: the mean of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_prosma.nn.build import Network


class Ensemble(nn.Module):
    """Networks of one architecture and one task, whose mean probability is the answer.

    Attributes
    ----------
    members : ModuleList of networks
    spec : ModelSpec
        Of each member.
    divisor : int
    """

    def __init__(self, members: Sequence[Network]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.spec = members[0].spec
        self.divisor = members[0].divisor

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, out_channels, *spatial) whose sigmoid or softmax is the members' mean probability."""
        logits = torch.stack([member(image).float() for member in self.members])
        if self.spec.out_channels == 1:
            return F.logsigmoid(logits).logsumexp(dim=0) - F.logsigmoid(-logits).logsumexp(dim=0)
        return F.log_softmax(logits, dim=2).logsumexp(dim=0) - math.log(len(logits))
