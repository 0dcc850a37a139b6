"""Classes inside classes: activations that keep the nesting, and the losses of trees."""
