"""Export of a Space: contents of its folder, its wheel, and when a folder is replaced."""

import ast
import importlib
import json
import re
import shutil
import sys
import zipfile
from base64 import urlsafe_b64encode
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import groundup
from groundup.checkpoint.files import load_config
from groundup.config.schema import Config
from groundup.errors import ExportError, UsageError
from groundup.interop import space, wheel
from groundup.interop.export import export
from groundup.interop.parity import batch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    """A Space of a tiny model, readable by others."""
    out = tmp_path_factory.mktemp("space") / "page"
    export(checkpoint(average=True), out, to="space", license="mit", name="me/tiny")
    return out


def header(folder):
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    names = [sorted(p.relative_to(f).as_posix() for p in f.rglob("*") if p.is_file()) for f in (one, other)]
    return names[0] == names[1] and all((one / n).read_bytes() == (other / n).read_bytes() for n in names[0])


def test_the_folder_contains_everything_that_the_page_needs(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {"app.py", "README.md", "requirements.txt", "model", wheel.file_name()}
    page = (folder / "app.py").read_bytes()
    assert page == (ROOT / "src/groundup/space/app.py").read_bytes()
    compile(page, "app.py", "exec")


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"average": True}, {"ngram": 3}])
def test_every_model_is_exported_and_computes_the_same(changes, checkpoint, tmp_path):
    model = checkpoint("modern" if "ngram" in changes else "gpt2", **changes)
    done = export(model, tmp_path / "page", to="space")
    assert (done.difference, done.checked_by) == (0.0, f"groundup {groundup.__version__}")
    assert done.bytes == sum(p.stat().st_size for p in (tmp_path / "page").rglob("*") if p.is_file())
    ours, theirs = groundup.load(model).model, groundup.load(tmp_path / "page" / "model").model
    ids = batch(ours.config)
    assert torch.equal(ours(ids), theirs(ids))
    options = {"max_tokens": 5, "seed": 3}
    assert groundup.generate(model, "a", **options) == groundup.generate(tmp_path / "page" / "model", "a", **options)


def test_changed_weights_are_found_and_nothing_is_left(checkpoint, tmp_path, monkeypatch):
    true = space.state.save

    def wrong(folder, what):
        what.tensors.model["wte.weight"] = what.tensors.model["wte.weight"] + 1e-6
        true(folder, what)

    model = checkpoint()
    monkeypatch.setattr(space.state, "save", wrong)
    with pytest.raises(ExportError, match="other logits"):
        export(model, tmp_path / "page", to="space")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_wheel_is_found_and_nothing_is_left(checkpoint, tmp_path, monkeypatch):
    true, model = wheel.write, checkpoint()

    def corrupted(folder, comment):
        path = true(folder, comment)
        content = path.read_bytes()
        path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])

    def half(folder, comment):
        path = true(folder, comment)
        with zipfile.ZipFile(path) as archive:
            kept = {name: archive.read(name) for name in archive.namelist()[1:]}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in kept.items():
                archive.writestr(name, content)

    for wrong in (corrupted, half):
        monkeypatch.setattr(wheel, "write", wrong)
        with pytest.raises(ExportError, match=r"none-any\.whl: is not what was written"):
            export(model, tmp_path / "page", to="space")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_if_no_wheel_can_be_built(folder, checkpoint, tmp_path, monkeypatch):
    model = checkpoint()
    with monkeypatch.context() as patched:
        patched.setattr(wheel, "NAME", "groundup_that_nobody_installed")
        patched.setattr(wheel, "_root", lambda: ROOT / "src/groundup")
        with pytest.raises(UsageError, match=r"is not installed.*pip install"):
            export(model, tmp_path / "page", to="space")
    zipped = zipfile.Path(folder / wheel.file_name(), "groundup/")
    monkeypatch.setattr(wheel, "resources", SimpleNamespace(files=lambda name: zipped))
    with pytest.raises(UsageError, match=r"runs from .*none-any\.whl, which is not unpacked; pip install"):
        export(model, tmp_path / "page", to="space")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "line"),
    [
        ("2.13.1", "torch==2.13.1"),
        ("2.13.0+cu130", "torch==2.13.0"),
        *((v, "") for v in ("2.13.0.dev2", "2.9.0a0+git")),
    ],
)
def test_a_torch_version_that_no_index_has_is_not_required(version, line, checkpoint, tmp_path, monkeypatch):
    true = metadata.version
    fake = SimpleNamespace(version=lambda name: version if name == "torch" else true(name))
    monkeypatch.setattr(space, "metadata", fake)
    done = export(checkpoint(), tmp_path / "page", to="space")
    required = (tmp_path / "page/requirements.txt").read_text().splitlines()
    ours = next(line for line in wheel.dependencies() if line.startswith("torch"))
    assert (line or ours) in required
    assert f"numpy=={true('numpy')}" in required
    assert ["no release" in note for note in done.notes] == [True] * (not line)


def test_stray_files_stay_out_of_the_wheel(tmp_path, monkeypatch):
    package = shutil.copytree(ROOT / "src/groundup/tokenizers", tmp_path / "groundup")
    for name in ("notes.txt", "kernels.so", ".env", "vocab/run.json", "__pycache__/x.cpython-311.pyc"):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text("mine")
    monkeypatch.setattr(wheel, "_root", lambda: package)
    with zipfile.ZipFile(wheel.write(tmp_path)) as archive:
        names = {name for name in archive.namelist() if name.startswith("groundup/")}
    there = {
        path.relative_to(ROOT / "src/groundup/tokenizers") for path in (ROOT / "src/groundup/tokenizers").rglob("*.*")
    }
    assert names == {f"groundup/{path.as_posix()}" for path in there if "__pycache__" not in path.parts}


def test_no_optimizer_state_and_no_local_path_is_exported(checkpoint, tmp_path):
    model = checkpoint(moments=True)
    config = json.loads((model / "config.json").read_text())
    config |= {
        "data": "/home/me/hidden-place/data",
        "init_from": "/home/me/hidden-place/run",
        "tracking": {"project": "hidden-place"},
        "prepare": {"sources": ["/home/me/hidden-place/text.txt"]},
        "evaluate": {"tasks": ["/home/me/hidden-place/mine.jsonl"], "prompt": "a word of hidden-place"},
        "checkpoint": {"keep_last": 7},
        "train": config["train"] | {"seed": 5},
    }
    (model / "config.json").write_text(json.dumps(config))
    origin = {"source": "/home/me/hidden-place/pile", "commit": None, "kind": "nanoGPT checkpoint"}
    (model / "progress.json").write_text(json.dumps({"step": 0, "tokens": 0, "origin": origin, "data": "f"}))
    listed = [line.split("  ") for line in (model / "SHA256SUMS").read_text().splitlines()]
    sums = [f"{sha256((model / name).read_bytes()).hexdigest()}  {name}\n" for _, name in listed]
    (model / "SHA256SUMS").write_text("".join(sums))
    out = tmp_path / "page"
    export(model, out, to="space")
    with zipfile.ZipFile(out / wheel.file_name()) as archive:
        packed = [archive.read(name) for name in archive.namelist()] + [archive.comment]
    written = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    assert not any(b"hidden-place" in content for content in written + packed)
    exported, mine = load_config(out / "model"), load_config(model)
    assert exported == Config(**{name: getattr(mine, name) for name in space.PUBLIC_SECTIONS})
    assert exported.train.seed == 5
    assert (out / "model/optimizer/state.safetensors").stat().st_size < 100
    assert json.loads((out / "model/progress.json").read_text())["origin"] == {"kind": "nanoGPT checkpoint"}


def test_the_readme_header_has_the_fields_of_the_hub(folder):
    head = header(folder)
    assert {"title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "app_file", "pinned"} <= head.keys()
    assert (head["title"], head["sdk"], head["app_file"], head["license"]) == ("tiny", "gradio", "app.py", "mit")
    assert head["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert len(head["short_description"]) <= 60  # the hub refuses more
    assert "library_name" not in head
    assert "# me/tiny" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_code_in_the_card_uses_existing_names(folder):
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    names = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
    assert {wheel.file_name(), "model"} <= names
    assert all((folder / name).exists() for name in (wheel.file_name(), "model"))


def test_the_requirements_are_those_of_groundup_and_gradio(folder):
    packaging = pytest.importorskip("packaging.requirements")
    lines = [packaging.Requirement(line) for line in (folder / "requirements.txt").read_text().splitlines()]
    found = {line.name: str(line.specifier) for line in lines}
    assert found["torch"] == f"=={torch.__version__.partition('+')[0]}"
    assert {"numpy", "pydantic", "tokenizers", "tiktoken", "gradio"} <= found.keys()
    assert not {"pytest", "transformers", "groundup"} & found.keys()
    assert all(line.url is None and not line.extras for line in lines)
    assert found["gradio"] == f"=={space.SDK}"
    assert {name: version for name, version in found.items() if not version.startswith("==")} == {}
    assert f"gradio=={space.SDK}\n" in (ROOT / "constraints.txt").read_text()


def test_the_wheel_is_valid(folder):
    with zipfile.ZipFile(folder / wheel.file_name()) as archive:
        names = archive.namelist()
        contents = {name: archive.read(name) for name in names}
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}  # at any time
    info = f"groundup-{groundup.__version__}.dist-info"
    rows = [line.rsplit(",", 2) for line in contents[f"{info}/RECORD"].decode().splitlines()]
    assert [name for name, _, _ in rows] == names
    for name, digest, size in rows[:-1]:
        expected = urlsafe_b64encode(sha256(contents[name]).digest()).decode().rstrip("=")
        assert (digest, int(size)) == (f"sha256={expected}", len(contents[name]))
    assert rows[-1] == [f"{info}/RECORD", "", ""]
    expected = {"METADATA", "WHEEL", "entry_points.txt", "RECORD", "licenses/LICENSE", "licenses/NOTICE"}
    assert {name.removeprefix(f"{info}/") for name in names if name.startswith(info)} == expected
    assert {name.partition("/")[0] for name in names} == {"groundup", info}
    there = ROOT / "src/groundup"
    files = [p for p in there.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {f"groundup/{p.relative_to(there).as_posix()}" for p in files} == {n for n in names if n[:9] == "groundup/"}


def test_the_export_is_reproducible(folder, checkpoint, tmp_path):
    export(checkpoint(average=True), tmp_path / "page", to="space", license="mit", name="me/tiny")
    assert same(folder, tmp_path / "page")


def test_the_package_runs_from_the_wheel(folder, tmp_path):
    """Package data is found inside the zip."""
    path = folder / wheel.file_name()
    found = next(iter(metadata.distributions(name="groundup", path=[str(path)])))
    assert found.version == groundup.__version__
    assert any(point.value == "groundup.cli:main" for point in found.entry_points)
    names = [name for name in sys.modules if name.partition(".")[0] == "groundup"]
    kept = {name: sys.modules.pop(name) for name in names}
    sys.path.insert(0, str(path))
    try:
        ours = importlib.import_module("groundup")
        assert ours.__file__.startswith(str(path))
        assert ours.generate(folder / "model", "a", max_tokens=3)[0].startswith("a")
        assert importlib.import_module("groundup.tokenizers.gpt2").GPT2Tokenizer().encode("a b").tolist() == [64, 275]
        assert importlib.import_module("groundup.kernels.cpu_build").library() is None
    finally:
        sys.path.remove(str(path))
        for name in [name for name in sys.modules if name.partition(".")[0] == "groundup"]:
            del sys.modules[name]
        sys.modules.update(kept)


def test_an_earlier_export_is_replaced_on_request_also_of_another_version(checkpoint, tmp_path):
    out, model = tmp_path / "page", checkpoint()
    export(model, out, to="space", license="mit")
    with pytest.raises(UsageError, match="is there already"):
        export(model, out, to="space")
    (out / wheel.file_name()).rename(out / "groundup-0.0.9-py3-none-any.whl")
    export(model, out, to="space", overwrite=True)
    assert "license" not in header(out)
    assert [path.name for path in out.glob("*.whl")] == [wheel.file_name()]
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


def test_other_folders_and_modified_pages_are_not_replaced(checkpoint, tmp_path):
    out, model = tmp_path / "page", checkpoint()
    export(model, out, to="space")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes\.txt"):
        export(model, out, to="space", overwrite=True)
    (out / "notes.txt").unlink()
    for name in ("app.py", "README.md", "requirements.txt", "model/progress.json"):
        kept = (out / name).read_bytes()
        (out / name).write_bytes(kept + b"\n# mine\n")
        with pytest.raises(UsageError, match=f"someone changed {name};"):
            export(model, out, to="space", overwrite=True)
        (out / name).write_bytes(kept)
    (out / "model/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"someone changed model/notes\.txt;"):
        export(model, out, to="space", overwrite=True)
    (out / "model/notes.txt").unlink()
    with zipfile.ZipFile(out / wheel.file_name(), "w") as archive:
        archive.writestr("other/app.py", "")
    with pytest.raises(UsageError, match="no such export"):
        export(model, out, to="space", overwrite=True)
    with pytest.raises(UsageError, match="no such export"):
        export(model, out / "model", to="space", overwrite=True)


def test_a_damaged_wheel_is_replaced_and_a_file_that_is_no_wheel_is_not(checkpoint, tmp_path):
    out, model = tmp_path / "page", checkpoint()
    export(model, out, to="space")
    path = out / wheel.file_name()
    complete = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        starts = [info.header_offset + 30 + len(info.filename) for info in archive.infolist()]
    damaged = bytearray(complete)
    for start in starts:
        damaged[start : start + 20] = b"\xff" * 20  # which zlib cannot decompress
    path.write_bytes(damaged)
    export(model, out, to="space", overwrite=True)
    assert path.read_bytes() == complete
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"[" * 60_000
    with pytest.raises(UsageError, match="no such export"):
        export(model, out, to="space", overwrite=True)
    path.write_bytes(complete[: len(complete) // 2])
    with pytest.raises(UsageError, match="no such export"):
        export(model, out, to="space", overwrite=True)


def test_the_export_needs_no_gradio(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    export(checkpoint(), tmp_path / "page", to="space")


def test_the_command_reports_what_was_checked(checkpoint, tmp_path, capsys):
    from groundup.cli import main

    with pytest.raises(SystemExit, match="0"):
        main(["export", str(checkpoint()), "--to", "space", "--out", str(tmp_path / "page")])
    assert "the same logits to the last bit" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert "--to space --out" in capsys.readouterr().out
