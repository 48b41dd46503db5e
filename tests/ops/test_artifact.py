"""Artifacts are loaded by the kind that their fit declares."""

from __future__ import annotations

from collections import Counter

import pytest

from taskloom.graph.errors import OpError
from taskloom.ops.artifact import ARTIFACTS, load_artifact
from taskloom.ops.host.bpe import Bpe, FitBpe
from taskloom.ops.host.closed_set import ClosedSet, FitClosedSet


def test_every_fit_leaves_an_artifact_of_a_known_kind() -> None:
    fitted = {
        FitBpe().signature.outputs["out"].kind: (FitBpe().finish(Counter()), Bpe),
        FitClosedSet().signature.outputs["out"].kind: (
            FitClosedSet().finish(frozenset({"yes"})),
            ClosedSet,
        ),
    }
    assert fitted.keys() == ARTIFACTS.keys()
    for kind, (content, expected) in fitted.items():
        artifact = load_artifact(kind, content)
        assert type(artifact) is expected
        assert artifact.to_bytes() == content


def test_an_unknown_kind_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(OpError, match=r'(?s)unknown kind of artifact "bpee".*did you mean bpe\?'):
        load_artifact("bpee", b"")
