"""The reviewers' desk: pages at `/review/…`, each with a JSON twin. `routes.review` has the same work for programs."""
