"""Text from files, folders and names, and one clear line for everything that is not text."""

import functools
import hashlib
import http.server
import threading
from pydoc_data.topics import topics

import pytest

from tinygrad_llm.data import sources
from tinygrad_llm.data.sources import SOURCES, read_text
from tinygrad_llm.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYGRAD_LLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_local_data(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYGRAD_LLM_DATA", str(tmp_path / "no-data"))


@pytest.fixture
def server(tmp_path, monkeypatch, no_local_data):
    """A site that stands in for the download's; `requests` lists what was asked of it."""
    (tmp_path / "site").mkdir()
    text = tmp_path / "site" / "input.txt"
    text.write_text("First Citizen:\n")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            server.requests.append(self.path)

    handler = functools.partial(Handler, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.requests, server.text = [], text
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/input.txt"
        checksum = hashlib.sha256(text.read_bytes()).hexdigest()
        monkeypatch.setitem(sources.DOWNLOADS, "shakespeare", ("tinyshakespeare/input.txt", url, checksum))
        yield server
        server.shutdown()


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_is_read_to_the_byte(tmp_path):
    data = "\ufeffline\r\nnaïve 🙂\n\n".encode()
    (tmp_path / "a.txt").write_bytes(data)
    assert read_text(tmp_path / "a.txt").encode() == data


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    texts = {"b.txt": "second\n", "a.md": "first", "c/d.txt": "third\n\n", "e.py": "no text"}
    for name, text in texts.items():
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(text)
    assert read_text(tmp_path / "texts") == "first\n\nsecond\n\nthird\n"


def test_python_docs_hold_every_topic_once_and_in_order():
    text = read_text("python-docs")
    at = [text.index(f'>>> help("{name}")\n\n{topics[name].strip()}') for name in sorted(topics)]
    assert at == sorted(at) and at[0] == 0
    assert text == read_text("python-docs")
    assert sum(map(len, topics.values())) <= len(text) < 1.02 * sum(map(len, topics.values()))


def test_shakespeare_is_found_in_the_local_data(data_dir, cache):
    assert len(read_text("shakespeare")) == 1_115_394
    assert not cache.exists()


def test_every_name_is_explained_and_readable(server):
    assert all(read_text(name) and SOURCES[name] for name in SOURCES)
    assert set(sources.DOWNLOADS) < set(SOURCES)


def test_a_local_copy_with_another_content_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYGRAD_LLM_DATA", str(tmp_path))
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_text("To be, or not")
    with pytest.raises(UserError, match=r"input\.txt has the wrong checksum") as error:
        read_text("shakespeare")
    one_line(error)


def test_a_download_happens_once(server, cache):
    assert read_text("shakespeare") == "First Citizen:\n"
    assert (cache / "tinyshakespeare" / "input.txt").is_file()
    assert read_text("shakespeare") == "First Citizen:\n"
    assert len(server.requests) == 1


def test_a_damaged_download_is_fetched_again(server, cache):
    read_text("shakespeare")
    (cache / "tinyshakespeare" / "input.txt").write_text("First Cit")
    assert read_text("shakespeare") == "First Citizen:\n"


def test_a_download_with_the_wrong_checksum_is_not_kept(server, cache):
    server.text.write_text("<html>Please log in</html>")
    with pytest.raises(UserError, match="wrong checksum") as error:
        read_text("shakespeare")
    assert str(cache / "tinyshakespeare" / "input.txt") in one_line(error)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_failed_download_says_where_to_put_the_file(server, cache):
    server.text.unlink()
    with pytest.raises(UserError, match=r"cannot download http://.* \(HTTPError\).*put the file at") as error:
        read_text("shakespeare")
    place = cache / "tinyshakespeare" / "input.txt"
    assert str(place) in one_line(error)
    place.write_text("First Citizen:\n")  # and there it is found
    assert read_text("shakespeare") == "First Citizen:\n"


@pytest.mark.parametrize("source", ["", "shakespear", "no/such/file.txt"])
def test_an_unknown_source_names_the_known_ones(source):
    with pytest.raises(UserError, match=f"'{source}'.* python-docs, shakespeare") as error:
        read_text(source)
    one_line(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\xc3\xa9 \xe9t\xe9", "UTF-8: byte 3 is 0xe9"), (b"\xe2\x82", "byte 0 is 0xe2")],
)
def test_a_file_that_is_no_text(tmp_path, content, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.txt").write_bytes(content)
    for source in (tmp_path / "folder" / "x.txt", tmp_path / "folder"):
        with pytest.raises(UserError, match=rf"x\.txt.*{message}") as error:
            read_text(source)
        one_line(error)


def test_a_folder_without_texts(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"holds no \.txt or \.md file"):
        read_text(tmp_path)
