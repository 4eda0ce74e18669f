"""`python -m services.trainer.jobs`, which is also `triptych train`."""

import sys

try:
    from services.trainer.jobs.commands import main
except ModuleNotFoundError as error:
    if (error.name or "").startswith(("services", "triptych")):
        raise
    print(f"error: {error.name} is not installed: pip install 'triptych[trainer]'", file=sys.stderr)
    sys.exit(1)

main()
