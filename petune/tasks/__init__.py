"""One file = one task. Adding a file adds a name; `docs/add-a-task.md` shows how."""
