"""`triptych train`: training runs as jobs. Exit codes: 0 ok, 1 the job failed, 2 usage or bad input, 3 no broker."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, ParamSpec

import redis
import typer

from services.trainer.config import Recipe
from services.trainer.jobs.broker import Broker
from services.trainer.jobs.local import start_worker, stop_workers
from services.trainer.jobs.settings import JobSettings
from services.trainer.jobs.store import JobStore
from services.trainer.jobs.submission import new_job
from services.trainer.jobs.view import follow, print_job, print_jobs
from triptych.errors import FailedPrecondition, InvalidArgument, TriptychError, Unavailable
