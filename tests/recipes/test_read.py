"""Recipes from files: what they extend, what is set on top, and all that is wrong at once."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from binarize import recipes
from binarize.errors import ConfigError
from binarize.methods import create
from binarize.recipes import schema
from binarize.training.build import faults

BASE = """\
data:
  name: shapes
  options: {size: [64, 64]}
  augmentation:
    size: [64, 64]
network: {encoder: convnext_atto}
method: {name: bidense, options: {granularity: layer}}
training:
  epochs: 5
  batch: 8
  lr: 1e-3
"""


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_that_comes_with_the_toolkit_is_valid(name: str) -> None:
    assert recipes.load(name).training.epochs >= 1


def test_the_earlier_names_of_the_classes_still_work() -> None:
    recipe = recipes.load("shapes/tiny-bidense")
    assert isinstance(recipe, recipes.Recipe)
    assert isinstance(recipe.method, schema.Method)
    stored = pickle.dumps(recipe, protocol=0)
    for new, old in ((b"TrainingRecipe", b"Recipe"), (b"MethodSettings", b"Method")):
        assert new in stored
        stored = stored.replace(new, old)
    assert pickle.loads(stored) == recipe


def test_a_recipe_holds_only_what_differs(tmp_path: Path) -> None:
    write(tmp_path, BASE, "_base.yaml")
    path = write(tmp_path, "extends: _base.yaml\nmethod: {name: bnn}\ntraining: {epochs: 9}\n")
    recipe = recipes.load(path, ["training.lr=2e-3", "data.workers=3", "method.keep=[stem.*]"])
    assert recipe.method is not None
    assert (recipe.method.name, recipe.method.options) == ("bnn", {})  # options of another method are not its
    assert recipe.method.keep == ("stem.*",)
    assert (recipe.training.epochs, recipe.training.batch, recipe.training.lr) == (9, 8, 2e-3)
    assert recipe.data.workers == 3
    floats = write(tmp_path, "extends: _base.yaml\nmethod: null\n")
    assert recipes.load(floats).method is None


def test_no_without_quotes_is_the_precision_no(tmp_path: Path) -> None:
    path = write(tmp_path, BASE + "  precision: no\n")
    assert recipes.load(path).training.precision == "no"
    assert recipes.load(path, ["training.precision=bf16"]).training.precision == "bf16"
    assert recipes.load(path, ["training.precision=no"]).training.precision == "no"
    with pytest.raises(ConfigError, match="precision"):
        recipes.load(path, ["training.precision=yes"])


def test_all_faults_at_once_with_file_and_line(tmp_path: Path) -> None:
    write(tmp_path, BASE.replace("  batch: 8\n", "  batch: 0\n"), "_base.yaml")
    path = write(tmp_path, "extends: _base.yaml\ntraining:\n  epoch: 3\ndata: {splitt: x}\n")
    with pytest.raises(ConfigError) as caught:
        recipes.load(path, ["training.lr=fast"])
    text = str(caught.value)
    assert "recipe.yaml, line 3: training.epoch: no such setting; did you mean epochs?" in text
    assert "recipe.yaml, line 4: data.splitt: no such setting; expected one of" in text
    assert "_base.yaml, line 10: training.batch: input should be greater than or equal to 1; got 0." in text
    assert "--set training.lr: input should be a valid number" in text


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.clip=yes", "training.clip: input should be a number; got True."),
        ("data.augmentation.size=[64, on]", "data.augmentation.size.1: input should be a number; got True."),
        ("data.augmentation.scale=[2, 0.5]", "the least comes first"),
        ("data.augmentation.border=[9, 3, 0, 5]", "holds no row or no column"),
        ("data.evaluation.scales=[]", "data.evaluation.scales: list should have at least 1 item"),
        (
            "training.trackers=a,b",
            "training.trackers: expected a list; got 'a,b'. Write [a,b].",
        ),
    ],
)
def test_values_that_would_fail_or_mislead_later(setting: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        recipes.load(write(tmp_path, BASE), [setting])
    assert message in str(caught.value)


def test_a_list_that_is_set_is_not_the_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set data.augmentation.size: data.augmentation.size.0: "):
        recipes.load(write(tmp_path, BASE), ["data.augmentation.size=[0, 64]"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "expected `name: value` lines"),
        ("a: [\n", "not YAML"),
        ("extends: nowhere.yaml\n", "line 1: extends: no such file"),
        ("extends: recipe.yaml\n", "extends itself"),
        ("about: x\nabout: y\n", "line 2: 'about' is there already, in line 1"),
        ("about: x\n", "training: is missing"),
        ("? [a]\n: 1\n", "not YAML|expected a name"),
        ("data: &a {b: *a}\n", "holds itself|not YAML"),
        ("about: !foo x\n", "not YAML"),
        ("about: 2001-99-99\n", "not YAML"),
    ],
)
def test_files_that_are_no_recipe(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        recipes.load(write(tmp_path, text))


@pytest.mark.parametrize("setting", ["training.lr", "=3", "a..b=3", "training.lr=[1"])
def test_settings_that_are_none(setting: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--set"):
        recipes.load(write(tmp_path, BASE), [setting])


def test_a_recipe_extends_one_that_comes_with_the_toolkit_by_its_name(tmp_path: Path) -> None:
    text = "extends: shapes/tiny-bidense\ntraining: {lr: 1.0e-9}\n"
    given, own = recipes.load(write(tmp_path, text)), recipes.load("shapes/tiny-bidense")
    assert given.training.lr == 1e-9
    assert given.model_copy(update={"training": own.training}) == own
    with pytest.raises(ConfigError, match=r"line 1: extends: no such file.*near: shapes/tiny-bidense"):
        recipes.load(write(tmp_path, "extends: shapes/tiny-bidens\n"))


def test_names_that_nothing_goes_by_at_once_with_their_lines(tmp_path: Path) -> None:
    text = (
        BASE.replace("shapes", "shpes")
        .replace("{encoder", "{name: uprnet, encoder")
        .replace("bidense", "bidens")
    )
    with pytest.raises(ConfigError) as caught:
        recipes.load(write(tmp_path, text), (), faults)
    assert str(caught.value).splitlines()[1:] == [
        "  recipe.yaml, line 6: network.name: unknown network 'uprnet': did you mean 'upernet'?",
        "  recipe.yaml, line 2: data.name: unknown data set 'shpes': did you mean 'shapes'?",
        "  recipe.yaml, line 7: method: unknown method 'bidens': "
        "did you mean 'bidense' or 'bireal' or 'adabin'?",
    ]
    wrong = ["data.train=trian", "data.val=null", "method.options={granulrity: layer}"]
    with pytest.raises(ConfigError) as caught:
        recipes.load(write(tmp_path, BASE), wrong, faults)
    assert str(caught.value).splitlines()[1:] == [
        "  --set data.train: unknown split of shapes 'trian': did you mean 'train'?",
        "  --set method.options: method.options.granulrity: unknown option of bidense 'granulrity': did you "
        "mean 'granularity'?",
    ]
    with pytest.raises(ConfigError) as caught:
        recipes.load(write(tmp_path, BASE), ["method.options.granulrity=layer"], faults)
    assert str(caught.value).splitlines()[1:] == [
        "  --set method.options.granulrity: unknown option of bidense 'granulrity': did you mean "
        "'granularity'?",
    ]
    assert list(faults(recipes.load(write(tmp_path, BASE)))) == []


def test_names_that_are_near() -> None:
    with pytest.raises(ConfigError, match="did you mean 'shapes/tiny-bidense'"):
        recipes.load("shapes/tiny-bidens")
    with pytest.raises(ConfigError, match="no such file"):
        recipes.load("nowhere/at/all.yaml")


SETTINGS = (
    "method.name=bnn",
    "method.options.form=table",
    "training.lr=1E-3",
    "data.options={seed: 1e1}",
    "data.options.length=4",
)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (1, 3, 0, 4, 2)])
def test_settings_in_any_order_are_one_recipe(order: tuple[int, ...], tmp_path: Path) -> None:
    recipe = recipes.load(write(tmp_path, BASE), [SETTINGS[i] for i in order])
    assert recipe.method is not None
    assert (recipe.method.name, recipe.method.options) == ("bnn", {"form": "table"})
    expected = recipes.load(write(tmp_path, BASE), SETTINGS)
    assert recipe.model_dump_json() == expected.model_dump_json()  # as files hold it: keys in one order


def test_a_recipe_that_names_another_network_has_its_options_only(tmp_path: Path) -> None:
    text = BASE.replace("{encoder: convnext_atto}", "{encoder: convnext_atto, options: {width: 32}}")
    write(tmp_path, text, "_base.yaml")  # which names no network: the default
    other = write(tmp_path, "extends: _base.yaml\nnetwork: {name: fcn32s, encoder: resnet18}\n")
    assert recipes.load(other).network.options == {}
    assert recipes.load(tmp_path / "_base.yaml", ["network.name=fcn32s"]).network.options == {}
    same = write(tmp_path, "extends: _base.yaml\nnetwork: {name: upernet}\n")
    assert recipes.load(same).network.options == {"width": 32}


def test_a_recipe_that_names_another_method_has_its_options_only(tmp_path: Path) -> None:
    write(tmp_path, BASE, "_base.yaml")
    path = write(tmp_path, "extends: _base.yaml\nmethod: {name: bnn, options: {form: table}}\n")
    recipe = recipes.load(path)
    assert recipe.method is not None
    assert recipe.method.options == {"form": "table"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["training.lr=1", "training.lr=2"],
            "--set 'training.lr=2': training.lr is set already, by 'training.lr=1'",
        ),
        (["training={lr: 1}", "training.lr=2"], "training.lr is set already, by"),
        (["method=null", "method.name=bnn"], "method is set already, by 'method"),
    ],
)
def test_settings_whose_order_would_count(settings: list[str], message: str, tmp_path: Path) -> None:
    for order in (settings, settings[::-1]):
        with pytest.raises(ConfigError, match="is set already, by") as caught:
            recipes.load(write(tmp_path, BASE), order)
        assert message in str(caught.value)
    assert recipes.load(write(tmp_path, BASE), ["training.lr=2", "training.lr=2"]).training.lr == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e1", 10.0), ("1E5", 1e5), ("1e-3", 1e-3), ("-1.5e3", -1500.0), (".5e2", 50.0), ("+2.e+1", 20.0),
     ("'1e1'", "1e1"), ("1e", "1e"), ("e1", "e1"), ("1e1x", "1e1x"), ("12", 12), ("1.5", 1.5)],
)  # fmt: skip
def test_numbers_in_options(text: str, value: object, tmp_path: Path) -> None:
    path = write(tmp_path, BASE.replace("size: [64, 64]}", f"size: [64, 64], length: {text}}}", 1))
    for recipe in (recipes.load(path), recipes.load(write(tmp_path, BASE), [f"data.options.length={text}"])):
        found = recipe.data.options["length"]
        assert (found, type(found)) == (value, type(value))


def test_whole_numbers_of_methods_in_any_spelling() -> None:
    from binarize.cli.options import configure

    assert configure("bidense", ["ablation=1e0"]).options()["ablation"] == 1
    assert create("bidense", ablation=1.0).options()["ablation"] == 1
    with pytest.raises(ConfigError, match="expected an integer"):
        create("bidense", ablation=1.5)


def test_recipes_with_a_byte_order_mark_and_line_ends_of_windows(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode())
    assert recipes.load(path) == recipes.load(write(tmp_path, BASE, "other.yaml"))


def test_another_data_set_has_its_options_folder_and_splits_only(tmp_path: Path) -> None:
    base = BASE.replace("name: shapes", "name: shapes\n  root: here\n  train: test\n  workers: 2")
    write(tmp_path, base, "_base.yaml")
    path = write(tmp_path, "extends: _base.yaml\ndata: {name: camvid}\n")
    found = recipes.load(path).data
    assert (found.options, found.root, found.train, found.val, found.test) == (
        {},
        None,
        "train",
        "val",
        "test",
    )
    assert (found.workers, found.augmentation.size) == (2, (64, 64))  # of no data set
    same = recipes.load(write(tmp_path, "extends: _base.yaml\ndata: {name: shapes, val: null}\n")).data
    assert (same.options, same.train, same.val) == ({"size": [64, 64]}, "test", None)


def test_null_deletes_what_a_recipe_inherits(tmp_path: Path) -> None:
    base = BASE.replace("lr: 1e-3", "lr: 1e-3\n  clip: 1.0\n  schedule: {per: step}\n  weight_decay: 0.5")
    write(tmp_path, base, "_base.yaml")
    text = """\
extends: _base.yaml
data: {options: {size: null, number: null}}
method: {options: {granularity: null}}
training: {clip: null, schedule: null, weight_decay: null}
"""
    recipe = recipes.load(write(tmp_path, text))
    assert recipe.data.options == {"number": None}  # nothing to delete: a value
    assert recipe.method is not None
    assert recipe.method.options == {}
    training = recipe.training
    assert (training.clip, training.schedule, training.weight_decay) == (None, schema.Schedule(), 0.01)
    with pytest.raises(ConfigError, match=r"training.lr: is missing"):
        recipes.load(write(tmp_path, "extends: _base.yaml\ntraining: {lr: null}\n"))


def test_the_folder_of_the_data_is_seen_from_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere/old").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    text = BASE.replace("name: shapes", "name: shapes\n  root: {root}")
    for root, expected in (("../data", tmp_path / "data"), ("old", "old"), ("nil", tmp_path / "project/nil")):
        path = write(tmp_path / "project", text.replace("{root}", root))
        assert recipes.load(path).data.root == str(expected)
    assert recipes.load(path, ["data.root=old"]).data.root == "old"  # relative to the current folder


def test_a_folder_of_recipes_is_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        recipes.load("shapes")
    first, *rows = str(caught.value).splitlines()
    assert first == "shapes is a folder of 2 recipes; name one of them."
    assert "  shapes/tiny-bidense" in "\n".join(rows)
    for name in ("a", "b"):
        write(tmp_path, BASE + f"about: of {name}\n", f"{name}.yaml")
    write(tmp_path, "about: not one\n", "_base.yaml")
    write(tmp_path, "about: [\n", "c.yaml")
    with pytest.raises(ConfigError) as caught:
        recipes.load(tmp_path)
    rows = [row.strip() for row in str(caught.value).splitlines()[2:]]
    names = [f"{tmp_path / name}.yaml" for name in "abc"]
    assert rows == [f"{names[0]}  of a", f"{names[1]}  of b", f"{names[2]}  (is not a recipe)"]


def test_the_recipe_of_the_page_on_own_data(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/own-data.md").read_text(encoding="utf-8")
    text = page.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "photos").mkdir()
    (tmp_path / "here").mkdir()
    found = recipes.load(write(tmp_path / "here", text), (), faults)
    assert found.data.root == str(tmp_path / "photos")
    assert found.data.options == {"classes": 4}
    assert (found.data.augmentation.long_side, found.training.class_balance) == (None, 0.0)
    assert found.network == recipes.load("camvid/convnext_atto-bidense").network
