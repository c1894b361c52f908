"""Episodic sampling, sine tasks and folders of characters."""

import itertools
import math
import os
import sys
import zipfile

import numpy as np
import pytest
import torch
from fastmaml.tasks import CharacterFolder, ClassDataset, Episodes, Sinusoid
from fastmaml.tasks.episodes import draw_without_replacement


def numbered(counts, shape=(1,)):
    """A data set whose sample s of class c is everywhere the number 100 c + s."""
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    values = torch.cat([100.0 * c + torch.arange(n) for c, n in enumerate(counts)])
    return ClassDataset(values.view(-1, *[1] * len(shape)).expand(-1, *shape), labels)


def test_episodes_have_the_promised_shapes_and_types():
    sampler = numbered([6] * 9, (2, 3)).episodes(5, 2, 3, tasks=4)
    support_x, support_y, query_x, query_y = sampler.sample(7)
    assert support_x.shape == (7, 10, 2, 3)
    assert query_x.shape == (7, 15, 2, 3)
    assert support_y.shape == (7, 10)
    assert query_y.shape == (7, 15)
    assert support_y.dtype == query_y.dtype == torch.int64
    assert support_x.is_contiguous()
    assert sampler.sample().support_x.shape[0] == 4
    assert [e.query_y.shape[0] for e in itertools.islice(sampler, 3)] == [4, 4, 4]


@pytest.mark.parametrize("counts", [[5] * 6, [5, 9, 5, 30, 7, 6]])
def test_episodes_are_disjoint_and_consistent(counts):
    way, shot, query = 4, 2, 3
    episodes = numbered(counts).episodes(way, shot, query).sample(300)
    support, queries = episodes.support_x.squeeze(-1).long(), episodes.query_x.squeeze(-1).long()
    for t in range(300):
        drawn = torch.cat([support[t], queries[t]]).tolist()
        assert len(set(drawn)) == len(drawn)
        class_of = dict(
            zip(episodes.support_y[t].tolist(), (support[t] // 100).tolist(), strict=True)
        )
        assert len(set(class_of.values())) == way
        for x, y in ((support[t], episodes.support_y[t]), (queries[t], episodes.query_y[t])):
            assert [class_of[label] for label in y.tolist()] == (x // 100).tolist()
        assert torch.bincount(episodes.query_y[t]).tolist() == [query] * way


def test_classes_labels_and_samples_are_uniform():
    counts = torch.tensor([3, 8, 4, 4, 5])
    tasks = 6000
    episodes = numbered(counts.tolist()).episodes(3, 1, 2).sample(tasks)
    support = episodes.support_x.squeeze(-1).long()
    for label in range(3):
        hits = torch.bincount(support[:, label] // 100, minlength=5) / tasks
        torch.testing.assert_close(hits, torch.full((5,), 1 / 5), atol=0.025, rtol=0)
    for x in (support, episodes.query_x.squeeze(-1).long()):
        of_class_1 = x[x // 100 == 1] % 100
        hits = torch.bincount(of_class_1, minlength=8) / len(of_class_1)
        torch.testing.assert_close(hits, torch.full((8,), 1 / 8), atol=0.02, rtol=0)


def test_draw_without_replacement_is_a_uniform_arrangement():
    generator = torch.Generator().manual_seed(0)
    drawn = draw_without_replacement(torch.full((24000,), 4), 3, generator)
    code = (drawn * torch.tensor([16, 4, 1])).sum(-1)
    values, hits = code.unique(return_counts=True)
    assert len(values) == math.perm(4, 3)
    # 24 arrangements of 1000 draws expected each, standard deviation 31
    assert (hits - 1000).abs().max() < 5 * 31
    whole = draw_without_replacement(torch.full((10,), 6), 6, generator)
    assert torch.equal(whole.sort(-1).values, torch.arange(6).expand(10, 6))


def test_rotations_are_new_classes_of_the_same_images():
    images = torch.rand(3, 6, 1, 5, 5)
    sampler = ClassDataset(images).episodes(12, 2, 4, rotations=True)
    x, y = torch.cat(sampler.sample(8)[::2], 1), torch.cat(sampler.sample(8)[1::2], 1)
    assert y.max() == 11
    turned = torch.stack([images.rot90(k, (-2, -1)) for k in range(4)]).flatten(0, 1)
    found = (x[:, :, None, None] == turned).flatten(4).all(-1)  # [T, n, 12 classes, 6 samples]
    assert torch.equal(found.sum((2, 3)), torch.ones(8, 72, dtype=torch.int64))
    classes = found.any(3).long().argmax(2)
    support = classes[:, :24].view(8, 12, 2)
    assert torch.equal(support[..., 0], support[..., 1])  # one class a label
    assert torch.equal(support[..., 0].sort(-1).values, torch.arange(12).expand(8, 12))
    assert torch.equal(classes[:, 24:].view(8, 12, 4), support[..., :1].expand(-1, -1, 4))


def test_seeds_and_state():
    dataset = numbered([9] * 9)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    a, b, other = (dataset.episodes(5, 1, 2, seed=seed) for seed in (3, 3, 4))
    for _ in range(3):
        first, second, third = a.sample(), b.sample(), other.sample()
        assert all(map(torch.equal, first, second))
        assert not torch.equal(first.support_x, third.support_x)
    state = a.state_dict()
    expected = [a.sample() for _ in range(2)]
    b.sample()
    b.load_state_dict(state)
    for episodes in expected:
        assert all(map(torch.equal, episodes, b.sample()))
    assert torch.equal(before, torch.random.get_rng_state())


def test_labels_may_be_any_integers_and_in_any_order():
    labels = np.array([7, -2, 7, 40, -2, 7, 40])
    dataset = ClassDataset(np.arange(7.0), labels)
    assert dataset.names == ("-2", "7", "40")
    assert dataset.counts.tolist() == [2, 3, 2]
    assert [dataset[c].tolist() for c in range(3)] == [[1, 4], [0, 2, 5], [3, 6]]
    assert torch.equal(dataset[-1], dataset[2])
    with pytest.raises(IndexError):
        dataset[3]


def test_splits_are_disjoint_and_complete():
    dataset = numbered([4] * 10)
    parts = dataset.split(6, 3, 1, seed=5)
    assert [len(part) for part in parts] == [6, 3, 1]
    assert sorted(sum((part.names for part in parts), ())) == sorted(dataset.names)
    assert [part.names for part in dataset.split(6, 3, 1, seed=5)] == [p.names for p in parts]
    assert parts[0].names != dataset.split(6, seed=6)[0].names
    drawn = parts[1].episodes(3, 1, 1).sample(100).support_x.flatten() // 100
    assert {str(int(c)) for c in drawn} == set(parts[1].names)
    assert parts[0].inputs is dataset.inputs

    groups = ["a", "b", "a", "c", "b", "b", "c", "c", "d", "d"]
    grouped = ClassDataset(torch.rand(10, 4, 2), groups=groups)
    parts = grouped.split(2, 1, 1, by_group=True)
    assert [len(set(part.groups)) for part in parts] == [2, 1, 1]
    assert sorted(sum((part.names for part in parts), ())) == sorted(grouped.names)
    assert grouped.select("b", "d").names == ("1", "4", "5", "8", "9")
    assert grouped.subset(torch.tensor([True] + [False] * 9)).names == ("0",)


def test_episodes_to_moves_floats_only():
    episodes = numbered([4] * 5).episodes().sample(2)
    for moved in (episodes.to(torch.float64), episodes.to("cpu", torch.float64)):
        assert isinstance(moved, Episodes)
        assert moved.support_x.dtype == moved.query_x.dtype == torch.float64
        assert moved.support_y.dtype == moved.query_y.dtype == torch.int64
    assert episodes.to("meta").query_x.device.type == "meta"
    assert episodes.to().support_x.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(way=0), ValueError, "way must be at least 1, got 0"),
        (dict(shot=-1), ValueError, "shot must be at least 1, got -1"),
        (dict(query=0), ValueError, "query must be at least 1, got 0"),
        (dict(tasks=0), ValueError, "tasks must be at least 1, got 0"),
        (dict(way=2.5), TypeError, "way must be an integer, got 2.5"),
        (dict(way=7), ValueError, "way is 7, but there are 6 classes"),
        (dict(way=25, rotations=True), ValueError, r"24 classes \(6 in 4 rotations\)"),
        (dict(shot=2, query=2), ValueError, r"2 \+ 2 = 4, but class '1' has 3 samples; 5 of 6"),
    ],
)
def test_impossible_episodes_are_refused(arguments, error, message):
    dataset = numbered([5, 3, 5, 5, 5, 5], (1, 4, 4))
    with pytest.raises(error, match=message):
        dataset.episodes(**arguments)


def test_bad_data_is_refused():
    with pytest.raises(ValueError, match=r"rotations turn square images.*got \(20, 1, 3, 4\)"):
        numbered([5] * 4, (1, 3, 4)).episodes(2, rotations=True)
    with pytest.raises(ValueError, match="tasks must be at least 1, got 0"):
        numbered([5] * 5).episodes().sample(0)
    with pytest.raises(ValueError, match=r"\[classes, samples, ...\], got shape \(5,\)"):
        ClassDataset(torch.rand(5))
    with pytest.raises(ValueError, match=r"labels must be \[samples\].*got shape \(4,\)"):
        ClassDataset(torch.rand(5, 2), [0, 1, 0, 1])
    with pytest.raises(TypeError, match=r"labels must be integers, got torch.float32"):
        ClassDataset(torch.rand(5, 2), torch.zeros(5))
    with pytest.raises(ValueError, match=r"at least one sample, got \(0, 2\)"):
        ClassDataset(torch.rand(0, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="names must be one a class, 2, got 1"):
        ClassDataset(torch.rand(2, 3), names=["a"])
    dataset = numbered([2] * 5)
    with pytest.raises(ValueError, match="sizes add up to 6, but there are 5 classes"):
        dataset.split(3, 3)
    with pytest.raises(ValueError, match="sizes must be at least 1, got 0"):
        dataset.split(3, 0)
    with pytest.raises(ValueError, match="no group 'x'; there are 0, 1, 2, 3, 4"):
        dataset.select("x")
    with pytest.raises(ValueError, match=r"classes must be in 0 .. 4, got 3 .. 5"):
        dataset.subset([3, 5])
    with pytest.raises(ValueError, match="classes must be distinct"):
        dataset.subset([1, 1])
    with pytest.raises(ValueError, match="at least one class"):
        dataset.subset(dataset.counts > 9)


def test_sinusoid_is_the_published_one():
    episodes = Sinusoid(shot=40, query=60).sample(2000)
    support_x, support_y, query_x, query_y = episodes
    assert support_x.shape == support_y.shape == (2000, 40, 1)
    assert query_x.shape == query_y.shape == (2000, 60, 1)
    assert all(part.dtype == torch.float32 for part in episodes)
    assert -5 <= query_x.min() < -4.99
    assert 4.99 < query_x.max() <= 5

    # y = a sin(x) + b cos(x) with a = amplitude cos(phase), b = -amplitude sin(phase):
    # a least-squares fit to the support set must predict the query set
    x, y = support_x.double(), support_y.double()
    fit = torch.linalg.lstsq(torch.cat([x.sin(), x.cos()], -1), y).solution  # [T, 2, 1]
    q = query_x.double()
    torch.testing.assert_close(
        torch.cat([q.sin(), q.cos()], -1) @ fit, query_y.double(), atol=1e-5, rtol=0
    )
    a, b = fit[:, 0, 0], fit[:, 1, 0]
    amplitude, phase = torch.hypot(a, b), torch.atan2(-b, a)
    for value, low, high in ((amplitude, 0.1, 5.0), (phase, 0.0, math.pi)):
        assert low - 1e-4 < value.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < value.max() < high + 1e-4
        assert abs(value.mean() - (low + high) / 2) < 0.03 * (high - low)


def test_sinusoid_seeds_dtypes_and_errors():
    single, double = Sinusoid(seed=1).sample(), Sinusoid(seed=1, dtype=torch.float64).sample()
    assert single.support_x.shape == (25, 10, 1)
    assert double.support_y.dtype == torch.float64
    for a, b in zip(single, double, strict=True):
        assert torch.equal(a, b.float())
    assert not torch.equal(single.query_x, Sinusoid(seed=2).sample().query_x)
    with pytest.raises(ValueError, match="shot must be at least 1, got 0"):
        Sinusoid(shot=0)
    with pytest.raises(ValueError, match=r"domain must be \(low, high\)"):
        Sinusoid(domain=(5, -5))
    with pytest.raises(TypeError, match=r"dtype must be a floating-point type, got torch.int64"):
        Sinusoid(dtype=torch.int64)


@pytest.fixture
def characters(tmp_path):
    """Two alphabets of two characters, 3 and 4 drawings; character k has a bar in row 10 k."""
    image = pytest.importorskip("PIL.Image")
    root = tmp_path / "images"
    for alphabet, drawings in (("Runes", 3), ("Signs", 4)):
        for k in range(2):
            folder = root / alphabet / f"character{k}"
            folder.mkdir(parents=True)
            for drawing in range(drawings):
                pixels = np.full((56, 56), 255, np.uint8)
                pixels[20 * k : 20 * k + 2, : 2 * drawing + 2] = 0
                image.fromarray(pixels).save(folder / f"{drawing:02}.png")
    return root


def zipped(root):
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root.parent))
        archive.writestr("__MACOSX/images/Runes/character0/._00.png", b"not an image")
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_character_folder(characters, packed):
    steps = []
    dataset = CharacterFolder(
        zipped(characters) if packed else characters, progress=lambda *step: steps.append(step)
    )
    assert dataset.names == tuple(f"{a}/character{k}" for a in ("Runes", "Signs") for k in (0, 1))
    assert dataset.groups == ("Runes", "Runes", "Signs", "Signs")
    assert dataset.counts.tolist() == [3, 3, 4, 4]
    assert dataset.inputs.dtype == torch.float32
    assert steps[-1] == (14, 14)
    for c in range(4):
        for drawing, image in enumerate(dataset[c]):
            expected = torch.zeros(1, 28, 28)
            expected[0, 10 * (c % 2), : drawing + 1] = 1
            assert torch.equal(image, expected)
    assert dataset.select("Signs").names == ("Signs/character0", "Signs/character1")
    assert dataset.episodes(2, 1, 2).sample(3).query_x.shape == (3, 4, 1, 28, 28)


def test_character_folder_size_ink_and_transparency(characters, tmp_path):
    image = pytest.importorskip("PIL.Image")
    light = CharacterFolder(characters, size=14, dark_ink=False)
    assert light.inputs.shape == (14, 1, 14, 14)
    assert light.inputs[0, 0, -1, -1] == 1
    folder = tmp_path / "clear" / "a" / "b"
    folder.mkdir(parents=True)
    pixels = np.zeros((28, 28, 4), np.uint8)
    pixels[5, 6, 3] = 255  # one opaque black pixel on transparent black
    image.fromarray(pixels).save(folder / "dot.png")
    (ink,) = CharacterFolder(tmp_path / "clear").inputs.nonzero().tolist()
    assert ink == [0, 0, 5, 6]


def test_character_folder_errors_name_the_file(characters, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        CharacterFolder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no alphabet/character/\*.png"):
        CharacterFolder(tmp_path / "empty")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(ValueError, match=r"text.zip is neither a folder nor a zip file"):
        CharacterFolder(tmp_path / "text.zip")
    with pytest.raises(ValueError, match=r"want alphabet/character/\*.png, got character0/00.png"):
        CharacterFolder(characters / "Runes")
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        CharacterFolder(characters, size=0)

    whole = (characters / "Runes" / "character1" / "02.png").read_bytes()
    for damaged in (b"", b"not a picture", whole[: len(whole) // 2]):
        (characters / "Runes" / "character1" / "02.png").write_bytes(damaged)
        for path in (characters, zipped(characters)):
            with pytest.raises(ValueError, match=r"cannot read image .*Runes/character1/02.png"):
                CharacterFolder(path)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "PIL.Image", None)
        with pytest.raises(ImportError, match=r"pillow: pip install fastmaml\[demo\]"):
            CharacterFolder(characters)


def test_character_folder_refuses_a_character_twice(characters):
    copy = characters / "more" / "Runes" / "character0"
    copy.mkdir(parents=True)
    source = characters / "Runes" / "character0" / "00.png"
    (copy / "00.png").write_bytes(source.read_bytes())
    with pytest.raises(ValueError, match="a character twice: Runes/character0, more/Runes"):
        CharacterFolder(characters)


@pytest.mark.skipif("FASTMAML_OMNIGLOT" not in os.environ, reason="FASTMAML_OMNIGLOT is not set")
def test_omniglot():
    dataset = CharacterFolder(os.environ["FASTMAML_OMNIGLOT"])
    assert set(dataset.counts.tolist()) == {20}
    assert len(set(dataset.groups)) < len(dataset)
    ink = dataset.inputs.mean((1, 2, 3))
    assert ink.min() > 0.005
    assert ink.max() < 0.5
    assert dataset.episodes(5, 1, 15, rotations=True).sample().query_x.shape == (32, 75, 1, 28, 28)
