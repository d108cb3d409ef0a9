"""One file = one method. Adding a file adds a name; `docs/add-a-method.md` shows how."""
