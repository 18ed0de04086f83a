"""The plain way and the peers, each as small as its own documentation shows it, tuned where it says how."""
