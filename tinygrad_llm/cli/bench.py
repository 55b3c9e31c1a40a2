"""`tinygrad-llm bench`"""

import json
import sys

from tinygrad_llm.bench import find, race, races
from tinygrad_llm.cli.parsing import Parser

HELP = f"""usage: tinygrad-llm bench NAME [--SETTING VALUE ...]

Race against PyTorch on the same cores (pip install 'tinygrad-llm[torch]').

The sides take turns, each in a process of its own, with the same weights, batches and threads, and their losses must
agree. What counts is ours over the better of PyTorch eager and torch.compile: below 1, ours is faster.

races:
{chr(10).join(f"  {name:<14}{line}" for name, line in races().items())}

examples:
  tinygrad-llm bench step-char
  tinygrad-llm bench step-char --sides ours,numpy,eager --rounds 5
  tinygrad-llm bench step-baby --threads 1 --json
  tinygrad-llm bench NAME --help              the settings of a race
"""


def run(argv: list[str]) -> int:
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        print(HELP, end="")
        return 0
    contest = find(name)
    parser = Parser(f"bench {name}", sys.modules[contest.__module__].__doc__, contest)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--record", action="store_true", help=f"append a row for each side to {race.RESULTS}")
    settings = parser.settings(rest)
    as_json, recorded = settings.pop("json"), settings.pop("record")
    result = contest(**settings).run()
    if recorded:
        race.record(result)
    print(json.dumps(result) if as_json else race.report(result))
    return 0
