"""The app of the workers in test_queued."""

import os

from celery import Celery

BROKER = os.environ["TRIPTYCH_TEST_BROKER"]
app = Celery("mix", broker=BROKER, backend=BROKER, include=["services.trainer.data.queued"])
