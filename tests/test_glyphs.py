"""The letters drawn from matplotlib's fonts."""

import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import torch
from fastmaml.cache import cache_folder
from fastmaml.tasks import Glyphs, glyph_rendering
from fastmaml.tasks.glyph_rendering import FACES, GlyphImages, draw_glyphs, script_of
from fastmaml.tasks.glyph_selection import ALIKE, EQUAL, image_distances, select_classes
from fastmaml.tasks.glyphs import CACHE_VERSION

pytest.importorskip("matplotlib")
pytest.importorskip("PIL")

CACHE_FILE = f"glyphs-{CACHE_VERSION}.npz"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder into which the glyphs have been drawn."""
    folder = tmp_path_factory.mktemp("cache")
    steps = []
    Glyphs("test", cache=folder, progress=lambda *step: steps.append(step))
    assert steps == [(face + 1, len(FACES)) for face in range(len(FACES))]
    return folder


@pytest.fixture(scope="module")
def splits(cache):
    def no_drawing(done, total):
        raise AssertionError("drawn although cached")

    names = ("train", "validation", "test")
    return {name: Glyphs(name, cache=cache, progress=no_drawing) for name in names}


def test_splits_hold_enough_classes_of_the_right_scripts(splits):
    scripts = {name: set(split.groups) for name, split in splits.items()}
    assert scripts == {
        "train": {"Latin", "Greek"},
        "validation": {"Cyrillic"},
        "test": {"Georgian", "Armenian", "Lao"},
    }
    assert len(splits["train"]) > 1000
    assert len(splits["validation"]) > 100
    assert len(splits["test"]) >= 200
    for split in splits.values():
        assert split.counts.min() >= 8
        for name, group in zip(split.names, split.groups, strict=True):
            script, letter = name.split("/")
            assert script == group
            assert unicodedata.name(letter).startswith(script.upper())


def test_images_are_centred_ink_on_nothing(splits):
    for split in splits.values():
        images = split.inputs
        assert images.shape[1:] == (1, 28, 28)
        assert images.dtype == torch.float32
        assert images.min() == 0
        assert images.max() == 1
        assert images.amax((1, 2, 3)).min() > 0.2  # none is blank
        assert torch.cat([images[..., 0, :], images[..., -1, :]]).max() == 0  # nothing is cut off
        assert torch.cat([images[..., 0], images[..., -1]]).max() == 0
        for axis in (2, 3):  # of rows and columns, as much is empty before the ink as after it
            ink = (images > 0).any(5 - axis).squeeze(1)
            before, after = ink.int().argmax(-1), ink.flip(-1).int().argmax(-1)
            assert (before - after).abs().max() <= 1


def test_no_letter_is_the_box_of_a_missing_glyph(splits):
    matplotlib = pytest.importorskip("matplotlib")
    face = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    unassigned = 0x0378
    (box,) = glyph_rendering._draw_face(face, [unassigned])
    for split in splits.values():
        images = (split.inputs.squeeze(1) * 255).round().byte().numpy()
        assert image_distances(box[None], images).min() > ALIKE


def test_held_out_letters_are_unlike_all_earlier_ones(splits):
    images = {k: (v.inputs.squeeze(1) * 255).round().byte().numpy() for k, v in splits.items()}
    seen = np.concatenate([images["train"], images["validation"]])
    # in any two faces, where the selection looks at the same face only
    assert image_distances(images["test"], seen).min() >= ALIKE
    assert "Cyrillic/\N{CYRILLIC CAPITAL LETTER A}" not in splits["validation"].names
    assert "Greek/\N{GREEK CAPITAL LETTER ALPHA}" not in splits["train"].names
    assert "Latin/A" in splits["train"].names


def test_samples_of_a_class_are_distinct(splits):
    for c in range(len(splits["test"])):
        images = (splits["test"][c].squeeze(1) * 255).round().byte().numpy()
        distances = image_distances(images, images) + 2 * np.eye(len(images))
        assert distances.min() >= EQUAL


def test_image_distances():
    a = np.zeros((2, 28, 28), np.uint8)
    a[0, 3, 3], a[1, 4, 4] = 255, 255
    b = np.full((1, 28, 28), 255, np.uint8)
    torch.testing.assert_close(image_distances(a, a), 2**0.5 * (1 - np.eye(2)))
    expected = np.sqrt((28 * 28 - 1) / (0.5 * (28 * 28 + 1)))
    torch.testing.assert_close(image_distances(a, b), np.full((2, 1), expected))


def noise(letters, seed):
    """Random images of letters, one a face, all unlike each other."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (len(letters), 9, 28, 28), dtype=np.uint8)
    codes, faces = np.repeat([ord(c) for c in letters], 9), np.tile(np.arange(9), len(letters))
    return GlyphImages(images.reshape(-1, 28, 28), codes, faces)


def kept_letters(glyphs):
    return "".join(map(chr, np.unique(glyphs.codes).tolist()))


def test_selection_keeps_unlike_letters_and_drops_twins():
    letters = "ABΩДЖႠႡ"  # Latin, Greek; Cyrillic; Georgian
    glyphs = noise(letters, 0)
    assert len(select_classes(glyphs)) == len(glyphs)

    def with_twin(original, twin, mix, faces):
        """`twin` in these faces is `original` with a share `mix` of its own image."""
        images = glyphs.images.copy()
        of = {c: np.flatnonzero(glyphs.codes == ord(c))[:faces] for c in (original, twin)}
        images[of[twin]] = (1 - mix) * images[of[original]] + mix * images[of[twin]]
        return GlyphImages(images, glyphs.codes, glyphs.faces)

    # equal in a single face: out of the later split, or the later letter of one split
    for original, twin in (("A", "Д"), ("Ω", "Ⴁ"), ("Ж", "Ⴀ"), ("A", "B"), ("B", "Ω")):
        kept = kept_letters(select_classes(with_twin(original, twin, 0.0, 1)))
        assert set(kept) == set(letters) - {twin}
    # alike, yet not equal: too near across splits, two letters within one
    assert "Д" not in kept_letters(select_classes(with_twin("A", "Д", 0.25, 1)))
    assert "B" in kept_letters(select_classes(with_twin("A", "B", 0.25, 9)))


def test_selection_wants_eight_distinct_images():
    glyphs = noise("AB", 1)
    repeated = glyphs.images.copy()
    repeated[1] = repeated[0]
    once = select_classes(GlyphImages(repeated, glyphs.codes, glyphs.faces))
    assert np.bincount(once.codes)[[ord("A"), ord("B")]].tolist() == [8, 9]
    assert 1 not in once.faces[once.codes == ord("A")]
    repeated[2] = repeated[0]
    twice = select_classes(GlyphImages(repeated, glyphs.codes, glyphs.faces))
    assert kept_letters(twice) == "B"


@pytest.mark.parametrize(
    ("character", "script"),
    [
        ("A", "Latin"),
        ("λ", "Greek"),
        ("ш", "Cyrillic"),
        ("ჰ", "Georgian"),
        ("5", None),
        ("ʰ", None),  # a modifier letter
        ("\N{MATHEMATICAL BOLD CAPITAL A}", None),  # a mathematical letter
        ("\N{ANGSTROM SIGN}", None),  # canonically the Latin letter
        ("\u0301", None),  # a combining mark
        ("א", None),  # a script that too few faces have
    ],
)
def test_script_of(character, script):
    assert script_of(ord(character)) == script


def test_drawing_is_deterministic(splits, monkeypatch):
    monkeypatch.setattr(glyph_rendering, "FACES", ("DejaVuSans",))
    once, again = (draw_glyphs(lambda done, total: None) for _ in range(2))
    assert np.array_equal(once.images, again.images)
    assert np.array_equal(once.codes, again.codes)
    for c, name in enumerate(splits["test"].names):
        (drawn,) = torch.from_numpy(once.images[once.codes == ord(name[-1])]).float() / 255
        assert (splits["test"][c] == drawn).flatten(1).all(1).any()


@pytest.fixture
def few_letters(monkeypatch):
    """Drawing replaced by random images of three letters; how often it was asked for."""
    drawn = []

    def draw(progress):
        drawn.append(1)
        return noise("AДႠ", 3)

    monkeypatch.setattr("fastmaml.tasks.glyphs.draw_glyphs", draw)
    return drawn


def test_a_damaged_cache_is_drawn_anew(tmp_path, few_letters):
    expected = Glyphs("train", cache=tmp_path).inputs
    Glyphs("test", cache=tmp_path)
    assert len(few_letters) == 1
    file = tmp_path / CACHE_FILE
    sound = file.read_bytes()
    middle = len(sound) // 2
    damages = [
        b"",
        b"no archive",
        sound[:middle],
        sound[:middle] + bytes(64) + sound[middle + 64 :],
    ]
    for count, damage in enumerate(damages, start=2):
        file.write_bytes(damage)
        assert torch.equal(Glyphs("train", cache=tmp_path).inputs, expected)
        assert len(few_letters) == count
        assert file.read_bytes() == sound
    np.savez(file.open("wb"), images=np.zeros((2, 5, 5)), codes=[1, 2], faces=[0, 0])
    assert torch.equal(Glyphs("train", cache=tmp_path).inputs, expected)
    assert [path.name for path in tmp_path.iterdir()] == [CACHE_FILE]


def test_where_the_cache_is(tmp_path, monkeypatch, few_letters):
    monkeypatch.setenv("FASTMAML_CACHE", str(tmp_path / "a" / "b"))
    Glyphs()
    assert (tmp_path / "a" / "b" / CACHE_FILE).exists()
    monkeypatch.delenv("FASTMAML_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "fastmaml"
    # a cache that cannot be written costs time, not the result
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="glyphs will be drawn again next time"):
        assert len(Glyphs("test", cache=tmp_path / "file" / "sub")) == 1


def test_without_the_demo_extra(tmp_path):
    """Tasks import and sample; only drawing needs the extra, and says so."""
    program = (
        "import sys\n"
        "sys.modules['matplotlib'] = sys.modules['PIL'] = None\n"
        "from fastmaml.tasks import Glyphs, Sinusoid\n"
        "Sinusoid().sample()\n"
        f"Glyphs(cache={str(tmp_path)!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: drawing Glyphs needs matplotlib: pip install fastmaml[demo]" in done.stderr


def test_glyphs_refuses_an_unknown_split(tmp_path):
    message = "split must be one of train, validation, test, got 'dev'"
    with pytest.raises(ValueError, match=message):
        Glyphs("dev", cache=tmp_path)


def test_glyph_episodes(splits):
    sampler = splits["test"].episodes(way=5, shot=1, query=7, tasks=4)
    support_x, support_y, query_x, _ = sampler.sample()
    assert support_x.shape == (4, 5, 1, 28, 28)
    assert query_x.shape == (4, 35, 1, 28, 28)
    assert support_y.tolist() == [[0, 1, 2, 3, 4]] * 4
    with pytest.raises(ValueError, match=r"way is 1000, but there are \d+ classes \(\d+ in 4 rot"):
        splits["test"].episodes(way=1000, rotations=True)
    with pytest.raises(ValueError, match=r"1 \+ 8 = 9, but class '\w+/.' has 8 samples"):
        splits["test"].episodes(query=8)
