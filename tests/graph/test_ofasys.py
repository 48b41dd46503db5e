"""Every instruction that OFASys documents says here what it says there, also those that it never built."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from taskloom.graph.attribute import Attribute
from taskloom.graph.instruction import Contrast, Group, Slot, parse_instruction
from taskloom.graph.modality import MODALITIES, Modality

OFASYS_SLOT = re.compile(
    r"\[(TEXT|IMAGE|BOX|AUDIO|MOTION|PHONE|VIDEO|STRUCT|CATEGORY)"
    r"(?::([_A-Za-z0-9]+))?(?:,([_A-Za-z0-9,.=]+))?\]"
)
"""The slots of OFASys, ``preprocessor/instruction.py``."""

PAGE = Path(__file__).parents[2] / "docs/language.md"

_CODES = "[IMAGE,preprocess=image_vqgan,adaptor=image_vqgan]"
_SNLI = 'can image and text1 " [TEXT:cap{}] " imply text2 " [TEXT:hyp{}] "?'
_GLUE = 'is the sentiment of text " [TEXT:sentence{}] " positive or negative?'

_CODED = {"preprocess": "image_vqgan", "adapter": "image_vqgan"}


def read(*slots: str, **given: dict[str, Any]) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Return slots written as ``"<IMAGE:img"`` (source) and ``">TEXT:cap"`` (target)."""
    told = [(slot[1:].partition(":"), "source" if slot[0] == "<" else "target") for slot in slots]
    return [(head, name, side, given.get(name, {})) for (head, _, name), side in told]


# Each case: the name of the task, its instruction, and modality, name, side and attributes of its slots.
TASKS = [
    (
        "caption",
        "[IMAGE:img] what does the image describe? -> [TEXT:cap]",
        read("<IMAGE:img", ">TEXT:cap"),
    ),
    (
        "vqa_gen",
        "[IMAGE:image] [TEXT:question] -> [TEXT:answer,closed_set]",
        read("<IMAGE:image", "<TEXT:question", ">TEXT:answer", answer={"closed_set": True}),
    ),
    (
        "snli_ve",
        f"[IMAGE:img] {_SNLI.format('', '')} -> [IMAGE:img,no_loss] "
        f"{_SNLI.format(',no_loss', ',no_loss')} [TEXT:label,closed_set]",
        [
            ("IMAGE", "img", "source", {}),
            ("TEXT", "cap", "source", {}),
            ("TEXT", "hyp", "source", {}),
            ("IMAGE", "img", "target", {"no_loss": True}),
            ("TEXT", "cap", "target", {"no_loss": True}),
            ("TEXT", "hyp", "target", {"no_loss": True}),
            ("TEXT", "label", "target", {"closed_set": True}),
        ],
    ),
    (
        "glue",
        f"{_GLUE.format('')} -> {_GLUE.format(',no_loss')} [TEXT:label,closed_set]",
        [
            ("TEXT", "sentence", "source", {}),
            ("TEXT", "sentence", "target", {"no_loss": True}),
            ("TEXT", "label", "target", {"closed_set": True}),
        ],
    ),
    (
        "gigaword",
        'what is the summary of article " [TEXT:src] "? -> [TEXT:tgt,noise_ratio=0.2]',
        read("<TEXT:src", ">TEXT:tgt", tgt={"noise_ratio": 0.2}),
    ),
    (
        "natural_instruction_v2",
        "[TEXT:instruction] [TEXT:examples] [TEXT:src] -> [TEXT:tgt,max_length=128]",
        read(
            "<TEXT:instruction",
            "<TEXT:examples",
            "<TEXT:src",
            ">TEXT:tgt",
            tgt={"max_length": 128},
        ),
    ),
    (
        "text_infilling",
        'what is the complete text of " [TEXT:text,mask_ratio=0.3] "? -> [TEXT:text]',
        [("TEXT", "text", "source", {"mask_ratio": 0.3}), ("TEXT", "text", "target", {})],
    ),
    ("language_modeling", "-> [TEXT:text]", read(">TEXT:text")),
    (
        "image_classify",
        "[IMAGE:image,preprocess=imagenet] what does the image describe? "
        "-> [TEXT:label_name,closed_set]",
        read(
            "<IMAGE:image",
            ">TEXT:label_name",
            image={"preprocess": "imagenet"},
            label_name={"closed_set": True},
        ),
    ),
    (
        "image_text_matching",
        'does the image describe " [TEXT:cap] "? [IMAGE:img] -> [TEXT:answer,closed_set]',
        read("<TEXT:cap", "<IMAGE:img", ">TEXT:answer", answer={"closed_set": True}),
    ),
    (
        "image_gen",
        f'what is the complete image? caption: [TEXT:text]"? -> {_CODES}',
        read("<TEXT:text", ">IMAGE:image", image=_CODED),
    ),
    (
        "image_infilling",
        f'what is the complete image of "[IMAGE:img,mask_ratio=0.5]"? -> {_CODES}',
        read("<IMAGE:img", ">IMAGE:image", img={"mask_ratio": 0.5}, image=_CODED),
    ),
    (
        "refcoco",
        '[IMAGE:img] which region does the text " [TEXT:cap] " describe? -> [BOX:patch_boxes]',
        read("<IMAGE:img", "<TEXT:cap", ">BOX:patch_boxes"),
    ),
    (
        "grounded_captioning",
        "[IMAGE:img] what does the region describe? region: [BOX:patch_boxes] -> [TEXT:cap]",
        read("<IMAGE:img", "<BOX:patch_boxes", ">TEXT:cap"),
    ),
    (
        "object_detection",
        "[IMAGE:img] what are the objects in the image? -> ( [BOX] [TEXT])*",
        read("<IMAGE:img", ">BOX:box", ">TEXT:text"),
    ),
    (
        "video_classify",
        "[VIDEO:video] what is in the video? -> [TEXT:label_name,closed_set]",
        read("<VIDEO:video", ">TEXT:label_name", label_name={"closed_set": True}),
    ),
    (
        "video_caption",
        "[VIDEO:video] what does the video describe? -> [TEXT:cap]",
        read("<VIDEO:video", ">TEXT:cap"),
    ),
    (
        "video_question_answering_generative",
        "[VIDEO:video] [TEXT:question] -> [TEXT:answer,is_label]",
        read("<VIDEO:video", "<TEXT:question", ">TEXT:answer", answer={"closed_set": True}),
    ),
    (
        "speech_to_text",
        "[AUDIO:wav] what is the text corresponding to the voice? "
        "-> [TEXT:text,preprocess=text_phone]",
        read("<AUDIO:wav", ">TEXT:text", text={"preprocess": "text_phone"}),
    ),
    (
        "phone_to_text",
        "[PHONE:phone] what is the text? -> [TEXT:text]",
        read("<PHONE:phone", ">TEXT:text"),
    ),
    (
        "audio_pretraining",
        "[AUDIO:wav,use_mask,n_frames_per_step=2] -> [AUDIO:fbank,adaptor=audio_tgt_fbank]",
        read(
            "<AUDIO:wav",
            ">AUDIO:fbank",
            wav={"use_mask": True, "n_frames_per_step": 2},
            fbank={"adapter": "audio_tgt_fbank"},
        ),
    ),
    (
        "text_to_speech",
        "[PHONE:text] -> [AUDIO:fbank,adaptor=audio_tgt_fbank]",
        read("<PHONE:text", ">AUDIO:fbank", fbank={"adapter": "audio_tgt_fbank"}),
    ),
    (
        "spider",
        '" [TEXT:src] " ; structured knowledge: " [STRUCT:database,max_length=876] " . '
        "generating sql code. -> [TEXT:tgt]",
        read("<TEXT:src", "<STRUCT:database", ">TEXT:tgt", database={"max_length": 876}),
    ),
    (
        "dart",
        'structured knowledge: " [STRUCT:database,uncased] "  . how to describe the tripleset ? '
        "-> [TEXT:tgt]",
        read("<STRUCT:database", ">TEXT:tgt", database={"uncased": True}),
    ),
    (
        "fetaqa",
        'structured knowledge: " [STRUCT:database,uncased] "  . what is the answer of the '
        'question " [TEXT:src] " ? -> [TEXT:tgt]',
        read("<STRUCT:database", "<TEXT:src", ">TEXT:tgt", database={"uncased": True}),
    ),
    (
        "sudoku",
        '" [TEXT:src] "  .  solve the sudoku .  -> [TEXT:tgt]',
        read("<TEXT:src", ">TEXT:tgt"),
    ),
    (
        "diffusion",
        "motion capture: [TEXT:text] -> [MOTION:bvh_frames,preprocess=motion_6d,adaptor=motion_6d]",
        read(
            "<TEXT:text",
            ">MOTION:bvh_frames",
            bvh_frames={"preprocess": "motion_6d", "adapter": "motion_6d"},
        ),
    ),
    ("encoder only", "[TEXT:text] ->", read("<TEXT:text")),
    (
        "interleaved",
        "what is said and shown? ([IMAGE] [TEXT])* -> [TEXT:answer]",
        read("<IMAGE:image", "<TEXT:text", ">TEXT:answer"),
    ),
    (
        "repeated, in brackets",
        "[IMAGE:img] what is where? -> [[BOX] [TEXT]]*",
        read("<IMAGE:img", ">BOX:box", ">TEXT:text"),
    ),
    (
        "repeated, with its legacy name",
        "[IMAGE:img] what is where? -> [[BOUNDING_BOX] [TEXT]]*",
        read("<IMAGE:img", ">BOX:box", ">TEXT:text"),
    ),
    ("contrastive", "[[IMAGE:img]|[TEXT:cap]] ->", read("<IMAGE:img", "<TEXT:cap")),
    (
        "several targets",
        "[IMAGE:img] -> [TEXT:cap] [BOX:region,loss_weight=0.5] [AUDIO:sound]",
        read(
            "<IMAGE:img",
            ">TEXT:cap",
            ">BOX:region",
            ">AUDIO:sound",
            region={"loss_weight": 0.5},
        ),
    ),
    (
        "every attribute of MOTION",
        "-> [MOTION:m,min_length=8,max_length=600,sample_rate=2,soft_trim=0.1,window,anchor_frame=0]",
        read(
            ">MOTION:m",
            m={
                "min_length": 8,
                "max_length": 600,
                "sample_rate": 2,
                "soft_trim": 0.1,
                "window": True,
                "anchor_frame": 0,
            },
        ),
    ),
    (
        "without BOS and EOS",
        "[PHONE:p,mask_ratio=0.1] -> [TEXT:t,disable_auto_boseos,no_punctuation]",
        read(
            "<PHONE:p",
            ">TEXT:t",
            p={"mask_ratio": 0.1},
            t={"disable_auto_boseos": True, "no_punctuation": True},
        ),
    ),
    (
        "codes and classes",
        "[IMAGE:codes,length=1024] -> [CATEGORY:label,preprocess=category,uncased]",
        read(
            "<IMAGE:codes",
            ">CATEGORY:label",
            codes={"length": 1024},
            label={"preprocess": "category", "uncased": True},
        ),
    ),
]


FREE = (
    Attribute("flag", bool),
    Attribute("count", int),
    Attribute("share", float),
    Attribute("word", str),
)


@given(
    st.sampled_from(list(MODALITIES)),
    st.none() | st.from_regex(r"[A-Za-z0-9_]{1,6}", fullmatch=True),
    st.lists(
        st.sampled_from(["flag", "count=3", "count=07", "share=0.5", "word=a_b.C"]), max_size=3
    ),
)
def test_what_is_a_slot_for_ofasys_is_one_here(
    modality: str, name: str | None, given: list[str]
) -> None:
    given = list({attribute.partition("=")[0]: attribute for attribute in given}.values())
    text = f"[{','.join([modality + (f':{name}' if name else ''), *given])}] ->"
    match = OFASYS_SLOT.match(text)
    assert match is not None
    (slot,) = parse_instruction(text, modalities={modality: Modality.of(modality, FREE)}).slots
    assert (slot.modality, slot.name) == (match[1], match[2] or modality.lower())
    assert list(slot.values) == [attribute.partition("=")[0] for attribute in given]


@pytest.mark.parametrize(("task", "text", "slots"), TASKS, ids=[task[0] for task in TASKS])
def test_an_instruction_gives_the_slots_that_are_meant(
    task: str, text: str, slots: list[tuple[str, str, str, dict[str, Any]]]
) -> None:
    parsed = [
        (slot.modality, slot.name, "source" if slot.is_source else "target", slot.values)
        for slot in parse_instruction(text, label=task).slots
    ]
    assert parsed == slots


@pytest.mark.parametrize("text", [task[1] for task in TASKS if "BOUNDING" not in task[1]])
def test_slots_stand_where_ofasys_finds_them(text: str) -> None:
    parsed = [(slot.modality, slot.span.start) for slot in parse_instruction(text).slots]
    assert parsed == [(match[1], match.start()) for match in OFASYS_SLOT.finditer(text)]


def test_the_tasks_use_every_attribute_of_ofasys() -> None:
    used = {
        (modality, key)
        for _, _, slots in TASKS
        for modality, _, _, values in slots
        for key in values
    }
    known = {key for modality in MODALITIES.values() for key in modality.attributes}
    assert known - {key for _, key in used} == {
        *("size", "patch", "verbatim"),
        *("poisson_lambda", "replace_length", "random_ratio"),
    }


@pytest.mark.parametrize("text", ["( [BOX] [TEXT])*", "[[BOX][TEXT]]*", "[[BOX] [TEXT]]*"])
def test_what_ofasys_takes_for_text_is_a_group(text: str) -> None:
    (group,) = parse_instruction(f"-> {text}").target
    assert isinstance(group, Group)
    assert [item.modality for item in group.items if isinstance(item, Slot)] == ["BOX", "TEXT"]


def test_what_ofasys_planned_as_a_contrast_is_a_pair() -> None:
    (pair,) = parse_instruction("[[IMAGE:img]|[TEXT:cap]] ->").source
    assert isinstance(pair, Contrast)
    assert (pair.left.modality, pair.right.modality) == ("IMAGE", "TEXT")


def test_the_page_of_the_language_has_an_instruction_for_every_task() -> None:
    _, _, block = PAGE.read_text("utf-8").partition("\nTASKS = ")
    shown = ast.literal_eval(block.partition("\n}\n")[0] + "\n}")
    ours = {task: str(parse_instruction(text)) for task, text, _ in TASKS if "legacy" not in task}
    assert shown == ours
