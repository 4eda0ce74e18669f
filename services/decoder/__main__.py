"""python -m services.decoder: settings first, then everything else."""

import sys

from services.decoder.config import DecoderConfig
from triptych.serving.describe import new_replica_id
from triptych.serving.logs import configure_logs
from triptych.serving.server import run

if __name__ == "__main__":
    settings = DecoderConfig.from_args(sys.argv[1:])
    from services.decoder.process import main  # after the settings: torch takes seconds, a typo should not

    replica_id = new_replica_id()
    configure_logs(settings, replica_id)
    sys.exit(run(main(settings, replica_id), settings, replica_id))
