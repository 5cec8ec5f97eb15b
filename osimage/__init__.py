"""The node's operating system: what is in it (`files`, `packages`), how it is built (`build`)."""
