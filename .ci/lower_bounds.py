"""Print the lowest versions that pyproject.toml allows, one a line, as constraints for pip."""

import re
import sys
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parents[1]


def lowest(requirements: list[str]) -> list[str]:
    """``name==version`` of every ``name>=version``; what has no lower bound is left to pip."""
    found = []
    for requirement in requirements:
        match = re.match(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?\s*>=\s*([0-9][0-9a-z.]*)", requirement)
        if match:
            found.append(f"{match[1]}=={match[2]}")
    return found


def main() -> None:
    """Those of the package, and of the extras that are named on the command line."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(one for name in sys.argv[1:] for one in extras[name])]
    print("\n".join(lowest(wanted)))


if __name__ == "__main__":
    main()
