"""Where the replicas of each stage are: named in the settings, listed in a file, or known to Kubernetes."""
