"""Clusters: the devices that a run is planned for."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..model.hardware import NETWORK, Hardware, hardware_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Devices that a run is planned for.

    Attributes:
        kind: Their kind, as `HARDWARE` has it.
        per_node: Devices of each node.
        num_nodes: Nodes.
        network: Bytes a second from a device to one of another node.
    """

    kind: str
    per_node: int = 1
    num_nodes: int = 1
    network: float = NETWORK

    @property
    def hardware(self) -> Hardware:
        """What each device can do.

        Raises:
            TrainingError: There is no such kind.
        """
        return hardware_of(self.kind)

    @property
    def num_ranks(self) -> int:
        """Devices in all."""
        return self.per_node * self.num_nodes

    @property
    def link(self) -> float:
        """Bytes a second on the slowest way from a device to the next."""
        return min(self.hardware.link, self.network) if self.num_nodes > 1 else self.hardware.link

    @property
    def memory(self) -> int:
        """Bytes of a device; those of this machine for ranks on the host."""
        if self.hardware.memory:
            return self.hardware.memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // self.per_node
