"""The plain way and the peers, each as small as its documentation shows it, and tuned as it recommends."""
