"""The book from a command line.

Used by the workflow, and by hand:

    python -m smf_lib.report.book build --profile quick   # stage, build and check work/quick/site
    python -m smf_lib.report.book stage --profile quick   # only put the sources together
    python -m smf_lib.report.book check --profile quick   # only check the pages that are there
    python -m smf_lib.report.book published               # from recorded studies alone
    python -m smf_lib.report.book browse --profile quick  # open the built pages in Chromium
    python -m smf_lib.report.book keep --profile quick    # its executed notebooks, with records
"""

import argparse
import sys
from pathlib import Path

from ...study.profiles import load_profile
from ...study.room import room_line
from .browser_check import check_in_browser, missing
from .build import HTML, build, stage
from .executed import keep
from .published import publish
from .site_check import check_site

ACTIONS = ("build", "stage", "check", "published", "browse", "keep")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status.

    What stands in its way is one line: pages that cannot be, a disk that is full or closed.
    """
    parser = argparse.ArgumentParser(description="Stage, build and check the book.")
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("--profile", default="quick", help="a name, or the path of a YAML file")
    parser.add_argument("--source", type=Path, default=Path(), help="the repository")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of work/ and results/")
    parser.add_argument("--log", type=Path, help="file for the output of Jupyter Book")
    options = parser.parse_args(arguments)
    source, root = options.source.resolve(), options.root.resolve()
    try:
        if options.action == "published":
            print(publish(source, root))
            return 0
        if options.action == "browse":
            if lacks := missing():
                print(f"skipped: pages cannot be read in a browser here; missing: {lacks}")
                return 0
            return _tell(check_in_browser(root / "work" / options.profile / "site" / HTML))
        profile = load_profile(options.profile)
        if options.action == "keep":
            print(*keep(profile.name, source, root), sep="\n")
            return 0
        work = root / "work" / profile.name
        if options.action == "check":
            return _tell(check_site(work / "site" / HTML))
        if options.action == "stage":
            print(stage(profile, source, root, work / "site"))
        else:
            print(build(profile, source, root, options.log or work / "logs" / "book.log"))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        line = room_line(error, root)
        if line is None:
            raise
        print(line, file=sys.stderr)
        return 1
    return 0


def _tell(problems: list[str]) -> int:
    print("\n".join(problems) or "no problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
