"""Planning: what a run will do, what is wrong with it, and the model and suite that it starts from."""
