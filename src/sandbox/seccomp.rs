//! System call filters from profiles in Docker's JSON format.
