"""What happens inside a binary network: entropy of its bits, what it has learnt, where its gradients end.

Each function looks at one network and gives numpy arrays; it leaves the network as it was. Pictures, tables
and sentences are made of these by `binarize.inspect.inspection`.
"""

from binarize.inspect.activation_entropy import Entropy, entropy
from binarize.inspect.applicable import ANALYSES, why_not
from binarize.inspect.bypass_share import BypassShares, bypass_shares
from binarize.inspect.first_maps import FeatureMaps, feature_maps
from binarize.inspect.gradient_norms import Gradients, gradients
from binarize.inspect.latent import LatentWeights, latent_weights
from binarize.inspect.layer_sensitivity import KeepList, Sensitivity, keep_list, sensitivity
from binarize.inspect.layer_swaps import LayerSwaps
from binarize.inspect.learnt_parameters import LearntParameters, parameters

__all__ = [
    "ANALYSES",
    "BypassShares",
    "Entropy",
    "FeatureMaps",
    "Gradients",
    "KeepList",
    "LatentWeights",
    "LayerSwaps",
    "LearntParameters",
    "Sensitivity",
    "bypass_shares",
    "entropy",
    "feature_maps",
    "gradients",
    "keep_list",
    "latent_weights",
    "parameters",
    "sensitivity",
    "why_not",
]
