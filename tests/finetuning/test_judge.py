"""Judges: ROUGE-L as the library has it, an endpoint with OpenAI's protocol and what goes wrong with one."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import UserError, cli
from tinygrad_llm.finetuning.judge import Endpoint, Likelihood, judge, rouge_l
from tinygrad_llm.finetuning.prompts import Dialogue

WORDS = ["the", "Cat", "sat.", "on-a", "MAT!", "42", "...", "it's"]
texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


@pytest.fixture(scope="module")
def scorer():
    return pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])


@given(answer=texts, reference=texts)
def test_rouge_l_is_the_librarys(scorer, answer, reference):
    assert rouge_l(answer, reference) == pytest.approx(scorer.score(reference, answer)["rougeL"].fmeasure)


def test_rouge_l_has_words_of_all_scripts():
    assert rouge_l("Größe naïve", "größe") == pytest.approx(2 / 3)
    assert rouge_l("", "a") == rouge_l("?!", "a") == rouge_l("a", "") == 0


@pytest.fixture
def server(monkeypatch):
    """An endpoint that replies what `replies` says, and keeps what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            made.asked.append((self.path, self.headers.get("Authorization"), asked))
            reply = made.replies.pop(0)
            status, body = reply if isinstance(reply, tuple) else (200, completion(reply))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "*")
    made = HTTPServer(("127.0.0.1", 0), Handler)
    made.asked, made.replies, made.url = [], ["1"], f"http://127.0.0.1:{made.server_port}/v1"
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def completion(text):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


DIALOGUE = Dialogue("", [{"role": "user", "content": "Two and {two}?"}, {"role": "assistant", "content": "Four."}])


def test_an_endpoint_grades_from_0_to_100(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    grades = {"85": 85, "I say 100.": 100, "7/100": 7, "none": None, "1000": None, "-5": None, "8.5": None, "": None}
    server.replies += list(grades)
    found = judge(server.url + "/", "llama3")
    assert found([DIALOGUE] * len(grades), ["4"] * len(grades)) == list(grades.values())
    path, key, asked = server.asked[-1]
    assert (path, key, asked["model"], asked["temperature"]) == ("/v1/chat/completions", "Bearer secret", "llama3", 0)
    question = asked["messages"][0]["content"]
    assert "Instruction:\nTwo and {two}?\n" in question
    assert "Reference:\nFour.\n" in question and "grade:\n4\n" in question


BROKEN = {
    "refusing": ((401, b"no\n key"), "refuses: 401 Unauthorized: no key"),
    "another protocol": ((200, b'{"choices": []}'), "does not answer as OpenAI's protocol says: IndexError"),
    "no JSON": ((200, b"<html>"), "does not answer as OpenAI's protocol says: JSONDecodeError"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_judge_that_fails_is_known_before_training(server, case):
    server.replies[0], message = BROKEN[case]
    with pytest.raises(UserError, match=message) as caught:
        Endpoint(server.url, "m")
    assert server.url in str(caught.value) and "\n" not in str(caught.value)


def test_a_judge_that_is_not_there_is_one_line(server, tmp_path, capsys):
    with pytest.raises(UserError, match="none"):
        Likelihood(str(tmp_path / "none"))
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "a", "output": "b"}]))
    argv = ["finetune", "instruct", "--model", "none", "--data", str(tmp_path / "a.json"), "--judge"]
    assert cli.main([*argv, "http://127.0.0.1:9/v1", "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the judge at http://127.0.0.1:9/v1/chat/completions cannot be reached:" in line
