"""What the cases of training on a GPU share: sizes, devices, streams and learners."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import text_mixture
import torch
from padded import make_program, open_functions
from steps import SMOOTHING
from torch import nn

from taskloom.ops.architecture import VOCABULARY_SCOPE
from taskloom.ops.device.config import ModelConfig
from taskloom.ops.device.relative.layer import INITIAL_STD
from taskloom.ops.device.relative.presets import PRESETS
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.model.program import Program
from taskloom.pipeline.settings import TrainConfig
from taskloom.pipeline.trainer.learner import Learner
from taskloom.storage.capacity import Capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all cases share.

    Attributes:
        device: Where steps are taken.
        folder: Where stores are.
        source_tokens: Length of a pack's source stream.
        num_packs: Packs that are taken in turn.
        num_steps: Steps that are timed.
        num_ids: Ids that tables have at least.
        width: Another width than the preset's; 0 for its own.
        layers: Another number of layers.
        compile: Whether layers are compiled.
    """

    device: torch.device
    folder: Path
    source_tokens: int
    num_packs: int
    num_steps: int
    num_ids: int
    width: int
    layers: int
    compile: str

    def model(self, preset: str) -> ModelConfig:
        """Return the sizes of ``preset``, without its trunk."""
        model = replace(PRESETS[preset], trunk="", label_smoothing=SMOOTHING)
        if self.width:
            heads = max(1, self.width // 32)
            model = replace(model, width=self.width, ffn_width=4 * self.width, num_heads=heads)
        if self.layers:
            model = replace(model, num_encoder_layers=self.layers, num_decoder_layers=self.layers)
        return model

    def learner(self, stream: Stream) -> Learner:
        """Return a learner of ``stream`` in bfloat16."""
        config = replace(
            stream.config,
            precision="bfloat16",
            compile=self.compile,
            learning_rate=1e-4,
            steps=10_000,
        )
        return Learner.of(self.program(stream), stream.plan, config, self.device)

    def program(self, stream: Stream) -> Program:
        """Return the program of ``stream``, its table as long as it should be."""
        program = make_program(stream)
        table = program.scope(VOCABULARY_SCOPE)
        more = max(0, self.num_ids - len(table.weight_VC))
        longer = torch.randn(more, table.weight_VC.shape[1]) * INITIAL_STD
        table.weight_VC = nn.Parameter(torch.cat((table.weight_VC.detach(), longer)))
        return program

    def open_texts(self, preset: str) -> Stream:
        """Return what documents of one length are trained on; a pack is full to its last token."""
        source = text_mixture.SOURCE_TOKENS
        capacity = Capacity(
            source=self.source_tokens,
            target=self.source_tokens // source * text_mixture.TARGET_TOKENS,
            tile=64,
            max_source=source,
        )
        store = text_mixture.open_store(self.folder / "texts")
        config = TrainConfig(source_tokens=self.source_tokens, max_document=source)
        mixture = text_mixture.make_mixture()
        return open_stream(mixture, store, self.model(preset), config, capacity)

    def open_functions(self, preset: str) -> Stream:
        """Return what functions are trained on, without dropout."""
        model = replace(self.model(preset), dropout=0.0)
        return open_functions(self.folder / "functions", model, self.source_tokens)

    @property
    def device_name(self) -> str:
        """The name of the GPU, or the type of the device."""
        if self.device.type != "cuda":
            return self.device.type
        return torch.cuda.get_device_name(self.device)
