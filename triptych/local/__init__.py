"""Processes on this machine: what `triptych up` and `triptych upgrade` are made of."""
