//! Fetches what is to be run from URLs and OCI registries, and pushes it there.
