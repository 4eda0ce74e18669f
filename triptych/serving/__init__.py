"""What every gRPC process does alike. Never sees torch: the orchestrator runs on this alone."""
