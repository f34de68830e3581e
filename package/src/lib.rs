//! What a user hands over to be run: JSON packages and archives of eBPF objects.
