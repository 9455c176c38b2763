"""The command line: `edgewright compile | profile | search | explain | devices | profiles`.

Results go to stdout, progress and errors to stderr. With `--json`, stdout holds exactly one JSON
document, also for an error. Only this package reads the environment.
"""

from edgewright.cli.main import main

__all__ = ["main"]
