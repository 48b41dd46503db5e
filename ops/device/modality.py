"""Modalities: what each token of a stream is, and feed-forward weights of its own for each of them.

An id has the modality of its block of the vocabulary, wherever it stands; a token made of a tensor that of its
lane. So what a decoder has just written has one as well, and needs no slot to tell it.

Tokens are brought into the order of their modalities, multiplied group by group, and brought back. How many
tokens a group has is data: shapes are static, and every modality may have none.

Shape letters: N = tokens of the stream, C = channels that come in, O = channels that come out, E = modalities,
I = tensors of a lane, P = tokens of one.

Source: experts by modality rather than by a gate, as ``modal_ffn`` of OFASys; one per modality in BEiT-3,
arXiv:2208.10442.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...graph.op import Traits
from ...graph.type import Layout, Place, Port, Signature
from .grouped_product import multiply_groups

Blocks: TypeAlias = tuple[tuple[int, str], ...]
"""Blocks of ids in order: one past the last id of each, and its modality."""

ROUTED: Final = ("up", "down")
"""Layers of a feed-forward part that each modality has one of."""


def names_of(blocks: Blocks, kinds: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the modalities of ids and of lanes' ``kinds``, each once: those of ids first, in order."""
    return tuple(dict.fromkeys([*(name for _, name in blocks), *sorted(kinds)]))


def tell_ids(ids_N: Tensor, blocks: Blocks) -> Tensor:
    """Return the number of each id's modality among `names_of` ``blocks``."""
    names = names_of(blocks)
    numbers_N = torch.full_like(ids_N, names.index(blocks[-1][1]))
    for stop, name in reversed(blocks[:-1]):
        numbers_N = numbers_N.masked_fill(ids_N < stop, names.index(name))
    return numbers_N


@dataclass(frozen=True, slots=True, kw_only=True)
class TellModalities:
    """Number the modality of every token of a stream.

    Attributes:
        blocks: Of ids.
        lanes: Lanes of tensors in the stream, and the modality of each.
    """

    blocks: Blocks
    lanes: tuple[tuple[str, str], ...] = ()
    traits: ClassVar[Traits] = Traits("tell_modalities", version=1, place=Place.DEVICE)

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities, by number."""
        return names_of(self.blocks, [kind for _, kind in self.lanes])

    @property
    def signature(self) -> Signature:
        """Ids, and where the tensors' tokens stand, in; numbers out."""
        packed = Layout.PACKED
        places = {
            f"{name}_places": Port("places", "int32", (f"N_{name}", f"P_{name}"), packed)
            for name, _ in sorted(self.lanes)
        }
        return Signature(
            inputs={"ids": Port("ids", "int32", ("N",), packed), **places},
            outputs={"out": modality_port("N")},
        )

    def module(self) -> None:
        """Build nothing: there are no parameters."""

    def __call__(self, _module: None, ids: Tensor, **lanes: Tensor) -> Tensor:
        """Return the number of each token's modality, shape ``(N,)``.

        Args:
            ids: Ids of the stream.
            lanes: Where the tokens of each lane's tensors stand in it, as `PlaceTokens` takes them.
        """
        # One more at the end, where tokens that are not used meet.
        numbers = F.pad(tell_ids(ids, self.blocks), (0, 1))
        for name, kind in self.lanes:
            standing = lanes[f"{name}_places"].flatten().long()
            numbers = numbers.index_fill(0, standing, self.names.index(kind))
        return numbers[:-1]


class Route(NamedTuple):
    """Which weights each token goes through.

    Attributes:
        numbers_N: Number of its modality.
        order_N: The tokens in the order of modalities; None where there are so few that all go through all.
        back_N: Where each token is in that order.
        stops_E: How many tokens there are up to the end of each modality; int32.
    """

    numbers_N: Tensor
    order_N: Tensor | None = None
    back_N: Tensor | None = None
    stops_E: Tensor | None = None


def plan_route(
    numbers_N: Tensor | None, given: tuple[str, ...], known: tuple[str, ...]
) -> Route | None:
    """Return the route of a stream, the same for all layers; None where all weights are shared.

    Args:
        numbers_N: Number of each token's modality among those that are given.
        given: The modalities of the stream.
        known: Those that there are weights for.
    """
    if numbers_N is None:
        return None
    numbers_N = renumber(numbers_N, given, known)
    if torch.compiler.is_exporting():
        # What is packaged runs without taskloom and its ops.
        return Route(numbers_N)
    order_N = numbers_N.argsort(stable=True)
    back_N = torch.empty_like(order_N)
    back_N[order_N] = torch.arange(len(order_N), device=order_N.device)
    each_E = torch.arange(len(known), device=numbers_N.device)
    stops_E = (numbers_N[:, None] <= each_E).sum(0, dtype=torch.int32)
    return Route(numbers_N, order_N, back_N, stops_E)


def route_ids(ids_N: Tensor, blocks: Blocks) -> Route | None:
    """Return the route of the few ids of a step that writes; None where all weights are shared."""
    return Route(tell_ids(ids_N, blocks)) if blocks else None


def renumber(numbers_N: Tensor, given: tuple[str, ...], known: tuple[str, ...]) -> Tensor:
    """Return ``numbers_N``, which count through ``given``, as they count through ``known``."""
    renumbered_N = numbers_N
    for number, name in enumerate(given):
        if (ours := known.index(name)) != number:
            renumbered_N = renumbered_N.masked_fill(numbers_N == number, ours)
    return renumbered_N


class RoutedFeedForward(nn.Module):
    """A feed-forward part whose linear layers every modality has for itself."""

    def __init__(
        self,
        names: Sequence[str],
        up: Callable[[], nn.Linear],
        down: Callable[[], nn.Linear],
        norm: nn.Module | None = None,
    ) -> None:
        """Build the weights.

        Args:
            names: The modalities.
            up: Makes a layer that comes before GELU.
            down: Makes one that comes after it.
            norm: What comes between them and all modalities share, if anything.
        """
        super().__init__()
        self.up = nn.ModuleDict({name: up() for name in names})
        self.norm = nn.Identity() if norm is None else norm
        self.down = nn.ModuleDict({name: down() for name in names})

    def forward(self, x_NC: Tensor, route: Route) -> Tensor:
        """Return what the layers of each token's modality add to it."""
        if route.order_N is None or route.back_N is None or route.stops_E is None:
            return self._choose(x_NC, route.numbers_N)
        numbers_N = route.numbers_N[route.order_N]
        middle_NF = _multiply(x_NC[route.order_N], self.up, numbers_N, route.stops_E)
        middle_NF = self.norm(F.gelu(middle_NF))
        return _multiply(middle_NF, self.down, numbers_N, route.stops_E)[route.back_N]

    def _choose(self, x_NC: Tensor, numbers_N: Tensor) -> Tensor:
        """Let all tokens go through all layers, and keep of each what is its own."""
        added_NC = x_NC
        for number, (up, down) in enumerate(zip(self.up.values(), self.down.values(), strict=True)):
            own_NC = down(self.norm(F.gelu(up(x_NC))))
            added_NC = own_NC.where((numbers_N == number)[:, None], added_NC) if number else own_NC
        return added_NC


def feed(ffn: nn.Module, x_NC: Tensor, route: Route | None) -> Tensor:
    """Return what a feed-forward part adds, routed or not."""
    return ffn(x_NC) if route is None else ffn(x_NC, route)


def shared_name(name: str) -> str | None:
    """Return the name that parameter ``name`` of a routed part has where weights are shared; None of others."""
    parts = name.split(".")
    if len(parts) >= 4 and parts[-4] == "ffn" and parts[-3] in ROUTED:
        return ".".join((*parts[:-2], parts[-1]))
    return None


def modality_port(name: str, *, is_optional: bool = False) -> Port:
    """Return the port of the modalities of stream ``name``."""
    return Port("modalities", "int32", (name,), Layout.PACKED, is_optional=is_optional)


def _multiply(x_NC: Tensor, layers: nn.ModuleDict, numbers_N: Tensor, stops_E: Tensor) -> Tensor:
    """Return the products of tokens, in the order of modalities, with the layers of these."""
    own: list[Any] = list(layers.values())
    out_NO = multiply_groups(x_NC, [layer.whole_weight() for layer in own], stops_E)
    biases = [cast("Tensor | None", layer.bias) for layer in own]
    whole = [bias for bias in biases if bias is not None]
    return out_NO + torch.stack(whole)[numbers_N] if whole else out_NO
