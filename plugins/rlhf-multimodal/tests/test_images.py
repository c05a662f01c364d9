"""Images: encoders by hand and of transformers, features computed once, the visual world, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from PIL import Image
from rlhf_multimodal import encoder
from rlhf_multimodal.shapes import COLORS, Scene, picture, scenes
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

from rlhf_plugins import Base, Data, DataError, component


def image(left: tuple[int, int, int], right: tuple[int, int, int]) -> Image.Image:
    """8 x 8 pixels, a color for each half."""
    found = Image.new("RGB", (8, 8), left)
    found.paste(right, (4, 0, 8, 8))
    return found


def rows(folder: Path, *names: str) -> dict[str, str]:
    """A file of pairs about these images."""
    file = folder / "rows.jsonl"
    pairs = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b", "image": name} for i, name in enumerate(names)]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return {"format": "preference", "source": str(file)}


def loaded(folder: Path, *names: str, **options: Any) -> Data:
    made = component("data_format", "with_images", rows=rows(folder, *names), folder=str(folder), **options)
    found: Data = made.load(Base("sandbox"), 0)
    return found


def test_patches_by_hand() -> None:
    """Black is -1 and white 1; a cell's place follows its color."""
    found = component("image_encoder", "patches", grid=2).build()([image((0, 0, 0), (255, 255, 255))])
    assert found[0].tolist() == [[-1, -1, -1, -1, -1], [1, 1, 1, -1, 1], [-1, -1, -1, 1, -1], [1, 1, 1, 1, 1]]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny vision transformer in a folder."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**sizes, image_size=8, patch_size=4)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    return str(folder)


def test_a_vision_model_of_transformers_by_its_folder(vit: str) -> None:
    """4 patches and the class token, averaged into 2 vectors of the model's 16 numbers."""
    encode = component("image_encoder", "pretrained", model=vit, vectors=2).build()
    one, other = encode([image((0, 0, 0), (255, 255, 255)), image((255, 0, 0), (0, 0, 255))])
    assert one.shape == (2, 16)
    assert (one - other).abs().max() > 1e-3
    torch.testing.assert_close(encode([image((0, 0, 0), (255, 255, 255))])[0], one)


def test_a_weight_without_dimensions_is_part_of_the_identity(vit: str) -> None:
    made = component("image_encoder", "pretrained", model=vit, vectors=2).build()
    names = set()
    for scale in (1.0, 2.0):
        made.model.register_buffer("scale", torch.tensor(scale))
        names.add(encoder._Pretrained(made.processor, made.model, 2).identity)
    assert len(names) == 2


def test_a_model_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="image_encoder pretrained: .*nothing is no vision model that loads"):
        component("image_encoder", "pretrained", model=str(tmp_path / "nothing")).build()


def test_features_are_computed_once(vit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, color in (("a", (1, 2, 3)), ("b", (200, 0, 0)), ("copy", (1, 2, 3))):
        image(color, color).save(tmp_path / f"{name}.png")
    words = {"encoder": {"use": "pretrained", "model": vit, "vectors": 2}, "cache": str(tmp_path / "kept")}
    first = loaded(tmp_path, "a.png", "b.png", **words)
    monkeypatch.setattr(encoder._Pretrained, "__call__", None)
    again = loaded(tmp_path, "copy.png", "b.png", **words)
    assert [g.columns["media_features"] for g in again.train] == [g.columns["media_features"] for g in first.train]
    assert len(list((tmp_path / "kept").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.png", "gone.png: No such file"),
        ("rows.jsonl", "no image that can be read"),
        ("odd.ppm", "odd.ppm: no image that can be read"),
        ("", "names no image in"),
    ],
)
def test_an_image_that_cannot_be_read_is_one_error(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "odd.ppm").write_bytes(b"P6 4\xff0 40 255 ")
    with pytest.raises(DataError, match=message):
        loaded(tmp_path, name)


def test_a_damaged_cache_is_one_error(tmp_path: Path) -> None:
    image((0, 0, 0), (9, 9, 9)).save(tmp_path / "a.png")
    loaded(tmp_path, "a.png", cache=str(tmp_path / "kept"))
    for file in (tmp_path / "kept").iterdir():
        file.write_bytes(b"x")
    with pytest.raises(DataError, match="the cache .* is damaged"):
        loaded(tmp_path, "a.png", cache=str(tmp_path / "kept"))


def test_a_picture_shows_its_scene() -> None:
    """Its middle has the thing's color, and the corner is gray; no two scenes look alike."""
    drawn = [picture(scene) for scene in scenes()]
    assert len({each.tobytes() for each in drawn}) == len(drawn) == 4 * len(COLORS) * 2 * 9
    found = picture(Scene("stone", "blue", "tiny", 11, 25))
    assert (found.getpixel((11, 25)), found.getpixel((0, 0))) == (COLORS["blue"], (150, 150, 150))


def test_only_the_picture_tells_what_is_true(tmp_path: Path) -> None:
    """Held-out scenes are others; both responses of a pair are about the one picture; insults cost one half."""
    data: Data = component("data_format", "shapes", folder=str(tmp_path), prompts=80, test_prompts=40).load(
        Base("sandbox"), 0
    )
    seen, held = ({g.columns["image"] for g in part} for part in (data.train, data.test))
    assert not seen & held
    assert all(Path(file).exists() for file in seen | held)
    for group in data.train:
        words = Path(group.columns["image"]).stem.split("-")
        for response, worth in zip(group.responses, group.gold or (), strict=True):
            true = str(response).rstrip(".").split()[-1] in words
            assert worth == pytest.approx(true - 0.5 * ("fool" in response) - 0.2 * ("let me" in response))


def test_images_are_opened_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, color in (("a", (1, 2, 3)), ("b", (200, 0, 0)), ("c", (0, 9, 0))):
        image(color, color).save(tmp_path / f"{name}.png")
    names, lots, encode = ("a.png", "b.png", "c.png"), list[int](), encoder._Patches.__call__
    whole = loaded(tmp_path, *names)
    monkeypatch.setattr("rlhf_multimodal.media.TOGETHER", 2)
    monkeypatch.setattr(encoder._Patches, "__call__", lambda own, some: lots.append(len(some)) or encode(own, some))
    assert [g.columns for g in loaded(tmp_path, *names).train] == [g.columns for g in whole.train]
    assert lots == [2, 1]


def test_a_pickled_model_does_not_open(vit: str, tmp_path: Path) -> None:
    copytree(vit, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="is no vision model that loads: .*safetensors"):
        component("image_encoder", "pretrained", model=str(tmp_path)).build()


def test_an_image_is_in_the_folder_and_of_a_size_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image((0, 0, 0), (9, 9, 9)).save(tmp_path / "a.png")
    (tmp_path / "own").mkdir()
    for name in ("../a.png", str(tmp_path / "a.png")):
        with pytest.raises(DataError, match=r"the image .*a.png is not in the folder"):
            loaded(tmp_path / "own", name)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match="no image that can be read"):
        loaded(tmp_path, "a.png")
