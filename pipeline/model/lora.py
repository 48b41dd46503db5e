"""Fine-tuning a part of a program by low-rank pairs: few parameters learn, all others stay.

A checkpoint of a run holds the pairs beside the weights they belong to, so it goes on; whoever reads it without
pairs, as a model does, gets the weights that both are together.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from ...graph.errors import TrainingError
from ...ops.device.lora import LoraLinear


def add_lora(program: nn.Module, names: Collection[str], *, rank: int, alpha: float) -> None:
    """Give linear layers of ``program`` pairs, and let nothing of ``names`` learn but these.

    Pairs are drawn from torch's global random state, layer by layer in the order of names.

    Args:
        program: What learns; it must not be compiled yet.
        names: Of parameters, as in `torch.nn.Module.named_parameters`: layers whose weights are among them get
            pairs.
        rank: Channels between the two matrices of a pair.
        alpha: What a pair adds is multiplied by this over the rank.

    Raises:
        TrainingError: No weight of a linear layer is among the names, one has a pair already, or a name is
            unknown (T0790); or the rank is no positive number (T0791).
    """
    if rank < 1 or not alpha > 0:
        message = f"rank and alpha of a low-rank pair must be positive, got {rank} and {alpha}"
        raise TrainingError.of("T0791", message)
    parameters = dict(program.named_parameters())
    if unknown := sorted(set(names) - parameters.keys()):
        raise TrainingError.of("T0790", f"the model has no parameter {unknown[0]}")
    layers = [
        name
        for name, module in sorted(program.named_modules())
        if isinstance(module, nn.Linear) and f"{name}.weight" in names
    ]
    if not layers:
        message = "low-rank pairs go beside weights of linear layers, and none of these is one"
        told = ", ".join(sorted(names)[:3]) or "nothing was named"
        raise TrainingError.of("T0790", message, f"named: {told}")
    paired = [name for name in layers if isinstance(program.get_submodule(name), LoraLinear)]
    if paired:
        message = f"a low-rank pair is beside {paired[0]} already"
        raise TrainingError.of("T0790", message, "let one rule name each part of the model")
    for name in names:
        parameters[name].requires_grad = False
    for name in layers:
        layer = program.get_submodule(name)
        assert isinstance(layer, nn.Linear), "it was chosen as one"
        program.set_submodule(name, LoraLinear(layer, rank=rank, alpha=alpha).train(layer.training))
